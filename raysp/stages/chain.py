"""The whole method as a chain of stages.

Owns how the four stages hang together; every sweep builds its configurations here, so that what one has trained another finds.

    baseline ───────────┬──────────────┐
    sensitivity ── mask(budget, method) ── finetune(d_th, gamma, AC, ...)

    baseline ── ranking ── finetune(budget, d_th, gamma, AC, ...)
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from raysp.data.config import DataConfig
from raysp.latency.known import Calibrations, hand_in, packaged
from raysp.methods.budget import resolve_budget
from raysp.methods.choices import Choice, RankingMethod, Weights
from raysp.models import architecture
from raysp.models.specs import check_flags, is_builtin, open_network, text_of
from raysp.stages.baseline import BaselineConfig, baseline_stage
from raysp.stages.experiment import CUSTOM, CustomNetwork, Experiment
from raysp.stages.finetune import FinetuneConfig, check_gate_epochs, finetune_stage, without_gates
from raysp.stages.gating import GatingConfig, gating_stage
from raysp.stages.given import digest, read_weights
from raysp.stages.mask import MaskConfig, mask_stage
from raysp.stages.presets import Preset
from raysp.stages.ranking import RankingConfig, ranking_stage
from raysp.stages.sensitivity import SensitivityConfig, in_forward_order, sensitivity_stage
from raysp.stages.time_limit import TimeLimit, gated_costs, time_limit
from raysp.store.stage import Stage
from raysp.training.recipes import Precision, Recipe

EQ2_BETA_SHARE = 0.01
"""β of PRAM's `eq2` form as a share of `attention`'s: at one β its value is about a hundred times as large."""

WALK_FLOOR = 0.02
"""Share of the network's ReLUs at which a ranking's walk ends."""

OWN_WALK_SHARE = 0.6
"""Share of the epochs in which the count falls, where a walk ends at a budget of its own and its weights are gone on with."""

WALK_SCORES_EVERY = 4
"""Of a walk that trains, one of so many images is scored: a step then costs 1.12 times one that scores none, instead of 1.35."""

RECIPES: dict[str, Literal["ranking", "frozen", "snl"]] = {"taylor": "ranking", "frozen": "frozen", "snl-walk": "snl"}
"""Of a preset, by the way to rank."""


class ChainBuilder:
    """Builds chains for one preset, data set and network.

    Args:
        preset: recipes and defaults.
        data: which images.
        model: a name in `raysp.models.MODELS`, or what `raysp.models.specs.open_network` takes; None takes the preset's.
        width: channels of the first stage; None takes the preset's, or for another model than the preset's the width that is as
            large a share of its own.
        epochs_scale: multiplies every stage's epochs, milestones and gate epochs with them; above 0.
        precision: of every stage's steps.
        sensitivity: a user's own η_α for every ReLU layer, in forward order or by the layer's name; None trains the sensitivity
            stage.
        relu6: of a custom network, take plain ReLUs for ReLU6.
        baseline: a file of weights that take the place of a trained baseline's.
        calibrations: what limits of seconds are predicted by; None takes those of the package. Others must be in the `Weighing`
            of the run, too, which hands them to its workers.

    Raises:
        ValueError: the network can't be built so, the scale is out of range, or the sensitivities don't fit the network.
    """

    def __init__(
        self,
        preset: Preset,
        data: DataConfig,
        *,
        model: str | None = None,
        width: int | None = None,
        epochs_scale: float = 1.0,
        precision: Precision = "fp32",
        sensitivity: Sequence[float] | Mapping[str, float] | None = None,
        relu6: bool = False,
        baseline: Path | None = None,
        calibrations: Calibrations | None = None,
    ) -> None:
        self._preset, self._data = preset, data
        self._calibrations = calibrations
        if calibrations:
            hand_in(calibrations)
        self._left_out: frozenset[str] = frozenset()
        self._model, self._width, self._custom = self._chosen(model or preset.model, width, relu6)
        self._recipes = {
            name: replace(getattr(preset, name).scaled(epochs_scale), precision=precision)
            for name in ("baseline", "sensitivity", "mask", "snl", "ranking", "frozen", "finetune", "rewind")
        }
        self._gate_epochs = round(preset.gate_epochs * epochs_scale)
        self.network = network = self._experiment(0).outline()
        """Without weights, on "meta"."""
        self._num_relus = network.num_relus()
        self._smallest_channel = min(layer.relu.shape[1] * layer.relu.shape[2] for layer in network.relu_layers())
        self._sensitivity = None if sensitivity is None else in_forward_order(sensitivity, network)
        self._given = None if baseline is None else read_weights(baseline, network, self._left_out)
        # What thousands of configurations share is made once.
        self._baselines: dict[int, Stage] = {}
        self._masks: dict[tuple[object, ...], Stage] = {}
        self._gatings: dict[str, Stage] = {}
        self._placements: set[tuple[tuple[int, ...], str]] = set()

    def baseline(self, seed: int) -> Stage:
        """The all-ReLU network of one seed."""
        if seed not in self._baselines:
            recipe, given = self._recipes["baseline"], None
            if self._given is not None:
                recipe, given = Recipe(epochs=1, milestones=()), digest(self._given)  # the recipe counts for nothing
            config = BaselineConfig(experiment=self._experiment(seed), recipe=recipe, given=given)
            self._baselines[seed] = baseline_stage(config)
        return self._baselines[seed]

    def given(self, seeds: Iterable[int]) -> dict[Stage, Mapping[str, torch.Tensor]]:
        """The weights of a user's baseline, by the stage that takes them for each seed; none without such a baseline."""
        return {} if self._given is None else {self.baseline(seed): self._given for seed in seeds}

    def mask(self, choice: Choice) -> Stage:
        """The mask of one configuration, with its ancestors.

        Raises:
            ValueError: a value is out of range.
        """
        what = (
            choice.budget,
            choice.density,
            choice.mask_method,
            choice.granularity,
            choice.mask_start,
            choice.depth_price,
            choice.layer_price,
            self._weights(choice),
            choice.seed,
        )
        if what not in self._masks:
            self._masks[what] = self._mask(choice)
        return self._masks[what]

    def budget(self, choice: Choice) -> int:
        """A configuration's budget in ReLU units.

        Raises:
            ValueError: it is out of range.
        """
        budget = resolve_budget(choice.budget, self._num_relus)
        if choice.granularity == "channel" and budget < self._smallest_channel:
            raise ValueError(
                f"budget {budget} by channel; expected at least {self._smallest_channel}, the positions of the smallest channel"
            )
        return budget

    def _mask(self, choice: Choice) -> Stage:
        method = choice.mask_method
        if method == "taylor" or method == "frozen" or method == "snl-walk":  # so that the type checker can tell
            return self._ranking(choice, method)
        preset, experiment = self._preset, self._experiment(choice.seed)
        snl = choice.mask_method == "snl"
        budget = self.budget(choice)
        config = MaskConfig(
            experiment=experiment,
            recipe=self._recipes["snl" if snl else "mask"],
            budget=budget,
            method=method,
            granularity=choice.granularity,
            sensitivity=None if snl else self._sensitivity,
            snl=preset.snl_search if snl else None,
            start=choice.mask_start,
            frozen_share=preset.snl_frozen_share if snl else preset.mask_frozen_share,
        )
        sensitivity = None
        if not snl and self._sensitivity is None:
            twin = SensitivityConfig(experiment=experiment, recipe=self._recipes["sensitivity"], density=choice.density)
            sensitivity = sensitivity_stage(twin)
        return mask_stage(config, baseline=self.baseline(choice.seed), sensitivity=sensitivity)

    def _ranking(self, choice: Choice, method: RankingMethod) -> Stage:
        """The ranking that a configuration's mask follows from: the one that all budgets share, or, where the walk's weights are
        to be gone on with, one that ends at the budget.
        """
        preset, snl = self._preset, method == "snl-walk"
        own = self._weights(choice) == "continue"
        shared = max(1, round(WALK_FLOOR * self._num_relus))
        config = RankingConfig(
            experiment=self._experiment(choice.seed),
            recipe=self._recipes[RECIPES[method]],
            method=method,
            snl=preset.snl_search if snl else None,
            every=WALK_SCORES_EVERY if method == "taylor" else 1,
            granularity=choice.granularity,
            floor=self.budget(choice) if own else shared,
            falling_share=1.0 if not own else 1.0 - preset.snl_frozen_share if snl else OWN_WALK_SHARE,
            depth_price=0.0 if snl else choice.depth_price,
            layer_price=0.0 if snl else choice.layer_price,
        )
        return ranking_stage(config, baseline=self.baseline(choice.seed))

    def _weights(self, choice: Choice) -> Weights:
        if choice.mask_method == "frozen":  # it has no others
            return "rewind"
        return choice.weights or ("rewind" if choice.mask_method in RECIPES else "continue")

    def chain(self, choice: Choice) -> Stage:
        """The fine-tuning of one configuration, with its ancestors.

        Raises:
            ValueError: the choice doesn't fit the network, or a value is out of range.
        """
        if (choice.ac_after, choice.ac_head) not in self._placements:
            with torch.device("meta"):
                network = copy.deepcopy(self.network)
                for stage in choice.ac_after:
                    network.add_exit(stage, choice.ac_head)  # refuses what doesn't fit
            self._placements.add((choice.ac_after, choice.ac_head))
        for name in ("gate_loss", "max_seconds"):
            if getattr(choice, name) is not None and not self.network.chains:
                raise ValueError(f"{name} with {self.network.name}, which has no block that can be gated; expected none")
        mask, weights = self.mask(choice), self._weights(choice)
        rewound = weights == "rewind"
        recipe = self._recipes["rewind" if rewound else "finetune"]
        beta = choice.beta
        if beta is None:
            usual = self._preset.rewind_beta if rewound else self._preset.beta
            beta = usual * (EQ2_BETA_SHARE if choice.pram == "eq2" else 1.0)
        gate_epochs = min(self._gate_epochs, recipe.epochs - 1) if choice.gate_epochs is None else choice.gate_epochs
        check_gate_epochs(gate_epochs, recipe.epochs)
        # A choice without effect takes its default: one configuration, not one per value that means nothing.
        config = FinetuneConfig(
            experiment=self._experiment(choice.seed),
            recipe=recipe,
            d_th=choice.d_th,
            gate_blocks=choice.gate_blocks or None,
            gate_loss=choice.gate_loss,
            time_limit=None if choice.max_seconds is None else self._limit(choice, choice.max_seconds),
            # Linear and cosine agree at 0, 1/2 and 1, which is all that a ramp of two epochs or less passes through.
            gamma=choice.gamma if gate_epochs > 2 else "linear",
            gate_epochs=gate_epochs,
            gb_init=choice.gb_init,
            kernel_size=choice.kernel_size,
            ac_after=choice.ac_after,
            ac_head=choice.ac_head if choice.ac_after else "pool",
            ac_init=choice.ac_init if choice.ac_after else "random",
            ac_end=choice.ac_end if choice.ac_after else "trained",
            pram=choice.pram if beta else "attention",
            **({"kl_weight": self._preset.rewind_kl_weight} if rewound else {}),
            beta=beta,
            weights=weights,
            budget=self.budget(choice) if mask.name == "ranking" else None,
        )
        gating = None
        if choice.gates_by_loss:
            gating = self._gating(config, mask, choice.seed)
        elif choice.d_th is None:
            config = without_gates(config)
        return finetune_stage(config, baseline=self.baseline(choice.seed), mask=mask, gating=gating)

    def _gating(self, config: FinetuneConfig, mask: Stage, seed: int) -> Stage:
        """What blocks would lose, for a fine-tuning that gates a number of them, or as many as it takes."""
        num_blocks = len(self.network.chains)
        if config.gate_blocks is not None and config.gate_blocks > num_blocks:
            raise ValueError(f"gate_blocks {config.gate_blocks}; expected 0 to {num_blocks}, the blocks of {self.network.name}")
        measured = GatingConfig(
            experiment=config.experiment, weights=config.weights, budget=config.budget, kernel_size=config.kernel_size
        )
        stage = gating_stage(measured, baseline=self.baseline(seed), mask=mask)
        return self._gatings.setdefault(stage.key, stage)

    def _limit(self, choice: Choice, max_seconds: float) -> TimeLimit:
        """The limit of seconds of a configuration. Raises ValueError where it can't be predicted."""
        limit = time_limit(max_seconds, choice.link, self._calibrations or packaged())
        gated_costs(self._experiment(0), choice.kernel_size, limit.calibration)
        return limit

    def _experiment(self, seed: int) -> Experiment:
        return Experiment(data=self._data, model=self._model, width=self._width, seed=seed, network=self._custom)

    def _chosen(self, model: str, width: int | None, relu6: bool) -> tuple[str, int, CustomNetwork | None]:
        """What of an experiment says which network."""
        check_flags(model, width=width, relu6=relu6)
        if is_builtin(model):
            # Another model than the preset's is as narrow, in proportion to its own width, as the preset's is.
            usual = architecture(self._preset.model).default_width
            proportional = architecture(model).default_width * self._preset.width // usual
            return model, proportional if width is None else width, None
        data = self._data
        sizes = {"num_classes": data.num_classes, "image_size": data.image_size, "in_channels": data.channels}
        network = open_network(model, **sizes, relu6=relu6)
        self._left_out = network.left_out
        return CUSTOM, 0, CustomNetwork(description=text_of(network), name=model)
