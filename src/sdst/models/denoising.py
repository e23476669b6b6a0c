"""Query denoising: noised true moments as further queries in training (DN-DETR, on which Sec. 3.2 builds).

A query that starts close to a true moment learns to move its boundaries without a matching that changes from step to
step. The paper only cites DN-DETR; the details are DINO's in one dimension (*reading*): each group has a positive and a
negative query for every true moment. The losses are in ``sdst.losses.denoising``; inference has no such queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sdst.errors import UserError
from sdst.spans import cw_to_se, se_to_cw

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_WIDTH = 1e-3
"""Width to which noise may shrink a moment, as a share of the video."""


@dataclass(frozen=True)
class Denoising:
    """Options of query denoising.

    Attributes:
        groups: Number of groups; 0 turns denoising off.
        noise: Largest shift of a boundary of a positive query, in half widths of its moment; the boundaries of a
            negative query move by one to two times as much. DINO has 1, DN-DETR 0.4.

    Raises:
        UserError: A value is out of range.
    """

    groups: int = 0
    noise: float = 1.0

    def __post_init__(self) -> None:
        if self.groups < 0:
            raise UserError(f"model.denoising_groups must be at least 0, got {self.groups}")
        if not (math.isfinite(self.noise) and self.noise > 0):
            raise UserError(f"model.denoising_noise must be finite and positive, got {self.noise}")

    def draw(self, moments: Tensor) -> Tensor:
        """Noise true moments (B, G, 2); returns references (B, N, 2), N = groups × (positive, negative) × G."""
        shape = (len(moments), self.groups, 2, moments.shape[1], 2)
        shift = torch.rand(shape, device=moments.device)
        shift[:, :, 1] += 1  # negatives
        shift = torch.where(torch.rand(shape, device=moments.device) < 0.5, shift, -shift)
        true = moments.float()[:, None, None]  # (B, 1, 1, G, 2)
        bounds = cw_to_se(true) + self.noise * shift * true[..., 1:] / 2
        centre, width = se_to_cw(bounds.clamp(0, 1).sort(dim=-1).values).flatten(1, 3).unbind(-1)
        return torch.stack([centre, width.clamp(min=SMALLEST_WIDTH)], dim=-1)

    def visible(self, num_queries: int, moment_mask: Tensor) -> Tensor:
        """(B, M + N, M + N) true where the query of a row may attend to that of a column; the M learned come first.

        Only its own group sees a noised query, because it shows where a true moment is. No query sees one of a moment
        that the sample lacks by its (B, G) mask.
        """
        group = torch.arange(self.groups, device=moment_mask.device).repeat_interleave(
            2 * moment_mask.shape[1]
        )
        valid = moment_mask.repeat(1, 2 * self.groups)
        noised = (group[:, None] == group) & valid[:, None]  # (B, N, N)
        matched = moment_mask.new_ones(len(valid), num_queries + len(group), num_queries)
        return torch.cat([matched, F.pad(noised, (0, 0, num_queries, 0))], dim=2)
