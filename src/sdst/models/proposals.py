"""Initial decoder queries: DINO's two-stage initialisation from clips of the dense stream (Tab. 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sdst.models.heads import class_head, regression_head

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.models.interpolation import ClipAxis

BASE_WIDTH = 0.05
"""Width of the moment around a clip from which the regression starts, as in DINO for one scale. *Reading.*"""


class Start(NamedTuple):
    """Initial state of the sparse stream.

    Attributes:
        queries: (B, M, d) Q^0.
        reference_logits: (B, M, 2) float32 σ^{-1}(R^0); selected clips get no gradient through it, as in DINO.
        class_logits: (B, M) class logits of the proposals; None if all of R^0 and Q^0 is learned.
        moments: (B, M, 2) R^0 again, with its gradient.
    """

    queries: Tensor
    reference_logits: Tensor
    class_logits: Tensor | None
    moments: Tensor


class ProposalHead(nn.Module):
    """Scores each clip of one level, regresses a moment around it, and starts the queries at the M best clips.

    All of this is *reading*, because the paper only cites DINO:

    * A video with fewer than M clips keeps the learned R^0 and Q^0 for its last queries.
    * The selection is trained as in DINO: class logits and moments of all M queries enter the moment losses as an
      extra level before the first (``Output.proposal_logits``); the same head scores the learned queries from Q^0.
    * The decoder's losses send no gradient to the heads or to the clips through the start. The clips that become Q^0
      are constants, like the references; the decoder's losses only train the projection from clips to queries.

    Args:
        dim: d.
        pure: Whether the clips give Q^0 as well (``pure_init``), or only R^0 (``mixed_init``).
    """

    def __init__(self, dim: int, pure: bool) -> None:
        super().__init__()
        self.classify = class_head(dim)
        self.regress = regression_head(dim)
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim)) if pure else None

    def forward(self, dense: Tensor, queries: Tensor, reference_logits: Tensor, axis: ClipAxis) -> Start:
        """Select the clips.

        Args:
            dense: (B, T, d) D^1 or D^K.
            queries: (M, d) learned Q^0.
            reference_logits: (M, 2) learned σ^{-1}(R^0).
            axis: Positions of the clips.
        """
        scores = self.classify(dense).squeeze(-1).float().masked_fill(~axis.mask, -torch.inf)
        # M extra places, so that there are enough for any T: a branch on T could not be exported.
        scores = F.pad(scores, (0, len(queries)), value=-torch.inf)
        # A stable sort, because the order of equal scores must not depend on the length of the padding.
        best = scores.argsort(dim=1, descending=True, stable=True)[:, : len(queries)]
        selected = F.pad(axis.mask, (0, len(queries))).gather(1, best).unsqueeze(-1)  # valid clips come first
        best = best.clamp(max=dense.shape[1] - 1)

        clips = dense.gather(1, best.unsqueeze(-1).expand(-1, -1, dense.shape[2]))  # (B, M, d)
        # Bounded, because the sigmoid is flat close to 0 and 1, where the regression could not move the centre.
        centres = axis.time().gather(1, best).logit(eps=1e-4)
        widths = torch.full_like(centres, BASE_WIDTH).logit()
        around = torch.stack([centres, widths], dim=-1) + self.regress(clips).float()
        learned, reference_logits = queries.expand_as(clips), reference_logits.float().expand_as(around)
        start = learned
        if self.project is not None:
            start = torch.where(selected, self.project(clips.detach()).to(learned.dtype), learned)
        return Start(
            queries=start,
            reference_logits=torch.where(selected, around.detach(), reference_logits),
            class_logits=self.classify(torch.where(selected, clips, learned.to(clips.dtype))).squeeze(-1),
            moments=torch.where(selected, around, reference_logits).sigmoid(),
        )
