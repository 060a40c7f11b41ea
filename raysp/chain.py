"""The whole method as a chain of stages.

Owns how the four stages hang together; every sweep builds its configurations here, so that what one has trained another finds.

    baseline ───────────┬──────────────┐
    sensitivity ── mask(budget) ── finetune(budget, d_th, gamma, AC)
"""

from dataclasses import dataclass

import torch

from raysp.budget import resolve_budget
from raysp.data import DataConfig
from raysp.models import MODELS, build_model
from raysp.presets import Preset
from raysp.schedules import GammaSchedule
from raysp.stage import Stage
from raysp.stages.baseline import BaselineConfig, baseline_stage
from raysp.stages.experiment import Experiment
from raysp.stages.finetune import FinetuneConfig, finetune_stage
from raysp.stages.mask import MaskConfig, mask_stage
from raysp.stages.sensitivity import SensitivityConfig, sensitivity_stage


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One configuration of a sweep."""

    budget: float
    """ReLU units, or a share of the network's ReLUs when below 1."""
    d_th: float | None
    gamma: GammaSchedule
    ac_after: int | None
    seed: int


class ChainBuilder:
    """Builds chains for one preset, data set and network.

    Args:
        preset: recipes and defaults.
        data: which images.
        model: a name in `raysp.models.MODELS`; None takes the preset's.
        width: channels of the first residual stage; None takes the preset's, or for another model than the preset's the width
            that is as large a share of its own.
        epochs_scale: multiplies every stage's epochs, milestones and gate epochs with them; above 0.

    Raises:
        ValueError: the network can't be built so, or the scale is out of range.
    """

    def __init__(
        self, preset: Preset, data: DataConfig, *, model: str | None = None, width: int | None = None, epochs_scale: float = 1.0
    ) -> None:
        self._preset, self._data = preset, data
        self._model = model or preset.model
        if self._model not in MODELS:
            raise ValueError(f"unknown model {self._model!r}; expected one of {', '.join(MODELS)}")
        # Another model than the preset's is as narrow, in proportion to its own width, as the preset's is.
        proportional = MODELS[self._model].default_width * preset.width // MODELS[preset.model].default_width
        self._width = proportional if width is None else width
        self._recipes = {
            name: getattr(preset, name).scaled(epochs_scale) for name in ("baseline", "sensitivity", "mask", "finetune")
        }
        self._gate_epochs = min(round(preset.gate_epochs * epochs_scale), self._recipes["finetune"].epochs - 1)
        with torch.device("meta"):  # only its shape is asked for here
            network = build_model(
                self._model,
                num_classes=data.num_classes,
                image_size=data.image_size,
                in_channels=data.channels,
                width=self._width,
            )
        self._num_relus, self.num_stages = network.num_relus(), len(network.stages)

    def baseline(self, seed: int) -> Stage:
        """The all-ReLU network of one seed."""
        return baseline_stage(BaselineConfig(experiment=self._experiment(seed), recipe=self._recipes["baseline"]))

    def chain(self, choice: Choice) -> Stage:
        """The fine-tuning of one configuration, with its ancestors.

        Raises:
            ValueError: the choice doesn't fit the network, or a value is out of range.
        """
        if choice.ac_after is not None and not 1 <= choice.ac_after < self.num_stages:
            raise ValueError(
                f"auxiliary classifier after stage {choice.ac_after}; expected a stage from 1 to {self.num_stages - 1} of "
                f"{self._model}'s {self.num_stages} (behind the last stands the final classifier)"
            )
        preset, experiment = self._preset, self._experiment(choice.seed)
        baseline = self.baseline(choice.seed)
        sensitivity = sensitivity_stage(SensitivityConfig(experiment=experiment, recipe=self._recipes["sensitivity"]))
        mask = MaskConfig(
            experiment=experiment,
            recipe=self._recipes["mask"],
            budget=resolve_budget(choice.budget, self._num_relus),
            frozen_share=preset.mask_frozen_share,
        )
        gated = choice.d_th is not None
        finetune = FinetuneConfig(
            experiment=experiment,
            recipe=self._recipes["finetune"],
            d_th=choice.d_th,
            # Without gates their course means nothing: one configuration, not one per schedule.
            gamma=choice.gamma if gated else "linear",
            gate_epochs=self._gate_epochs if gated else 0,
            ac_after=choice.ac_after,
            beta=preset.beta,
        )
        mask_parent = mask_stage(mask, baseline=baseline, sensitivity=sensitivity)
        return finetune_stage(finetune, baseline=baseline, mask=mask_parent)

    def _experiment(self, seed: int) -> Experiment:
        return Experiment(data=self._data, model=self._model, width=self._width, seed=seed)
