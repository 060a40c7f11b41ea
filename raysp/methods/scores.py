"""Learning a mask beside the weights by a score per position (SENet, arXiv 2301.09254, stage 2).

Owns the scores and the masks' updates. Contract: every layer keeps its count of ReLUs at every moment.
"""

from collections.abc import Hashable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raysp.methods.choices import Granularity
from raysp.methods.distillation import StudentTask
from raysp.methods.positions import layer_mask
from raysp.models.network import Network

Score = Literal["senet", "counterfactual"]


class ScoreTask(StudentTask):
    """Distillation, while the student's masks follow a score that is summed over each epoch.

    `senet` is |Ψ_AR − Ψ_PR| of the two networks' post-activation maps. It is large mostly where no ReLU is now, so
    the mask turns over. `counterfactual` (ours) is relu(−x) of the student's pre-activation x: what making the position linear
    would change, or has changed; it doesn't depend on the mask in force.

    Args:
        student, teacher, kl_weight, rho: see `StudentTask`.
        score: which.
        granularity: of the masks.
        num_updates: epochs, from the first, after which the masks are replaced.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        *,
        kl_weight: float,
        rho: float,
        score: Score,
        granularity: Granularity,
        num_updates: int,
    ) -> None:
        super().__init__(student, teacher, kl_weight=kl_weight, rho=rho)
        self._score, self._granularity, self._num_updates = score, granularity, num_updates
        self._pairs = [(s.relu, t.relu) for s, t in zip(student.relu_layers(), teacher.relu_layers(), strict=True)]
        self._maps: dict[nn.Module, Tensor] = {}
        for student_relu, teacher_relu in self._pairs:
            if score == "senet":
                student_relu.register_forward_hook(self._keep_output)
                teacher_relu.register_forward_hook(self._keep_output)
            else:
                student_relu.register_forward_pre_hook(self._keep_negative)
        self._scores = [torch.zeros(s.shape, device=s.mask.device) for s, _ in self._pairs]

    def decided(self) -> Hashable:
        """See `Task`: also whether a score is summed."""
        return super().decided(), self._updating

    def begin_epoch(self, epoch: int) -> None:
        """Start the epoch's score at 0."""
        self._updating = epoch < self._num_updates
        for score in self._scores:
            score.zero_()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """(1 − w)·CE + w·KL, and the score of the batch."""
        loss = super().loss(images, labels)
        if self._updating and self.share:
            for score, (student, teacher) in zip(self._scores, self._pairs, strict=True):
                if self._score == "senet":
                    score += (self._maps[teacher] - self._maps[student]).abs().sum(dim=0, dtype=score.dtype)
                else:
                    score += self._maps[student]
        self._maps.clear()
        return loss

    def epoch_sums(self) -> dict[str, Tensor]:
        """The scores so far, per layer; none once the mask is frozen."""
        return {f"score.{index}": score for index, score in enumerate(self._scores)} if self._updating else {}

    def end_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Replace each mask by the top of its score; report the share of kept positions that are new."""
        if not self._updating:
            return {"mask_changed": 0.0}
        changed = total = 0
        for score, (student, _) in zip(self._scores, self._pairs, strict=True):
            mask = layer_mask(score, student.kept, self._granularity)
            changed += int((mask & ~student.mask).sum())
            total += student.kept
            student.set_mask(mask)
        return {"mask_changed": changed / max(total, 1)}

    def _keep_output(self, relu: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self.model.training and self._updating:  # evaluation needs no maps
            self._maps[relu] = output.detach()

    def _keep_negative(self, relu: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.model.training and self._updating:  # at once: the ReLU overwrites its input
            self._maps[relu] = F.relu(-inputs[0].detach()).sum(dim=0, dtype=torch.float32)
