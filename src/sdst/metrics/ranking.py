"""Highlight detection of TVSum and YouTube Highlights: mAP of a video's clips ranked by saliency, by domain.

The definitions are those of UMT (Liu et al., CVPR 2022: ``datasets/tvsum.py`` and ``youtube.py``), which UniVTG,
QD-DETR (``qd_detr/inference.py``) and Lighthouse (``compute_hl_results``) copied. The programs were read, not run
beside this one; a test compares it with a loop that follows theirs line by line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranking:
    """How ranked clips are scored.

    Attributes:
        top: Number of clips that count, the most salient ones; None for all.
        by_median: If true, a clip is a highlight for a rater who rated it above the rater's median in the video (of an
            even number of ratings the lower middle one, as in torch). If false, it is one if its label is above 0.
    """

    top: int | None
    by_median: bool


TVSUM = Ranking(top=5, by_median=True)
YOUTUBE = Ranking(top=None, by_median=False)


def domain_metrics(
    saliency: Sequence[NDArray[np.float64]],
    labels: Sequence[NDArray[np.float64]],
    domains: Sequence[str | None],
    ranking: Ranking,
) -> dict[str, float]:
    """Compute mAP in percent: ``mAP-DOMAIN`` over the videos and raters of each domain, and ``mAP``, their mean.

    Without domains ``mAP`` is the mean over all videos and raters.

    Args:
        saliency: (T,) predicted scores of the clips per video.
        labels: (C, A) labels of the A raters per video; saliency of further clips is cut off, clips without saliency
            are not ranked.
        domains: Domain of each video; None if the annotations have none.
        ranking: How ranked clips are scored.
    """
    precision = np.array(
        [average_precision(*video, ranking).mean() for video in zip(saliency, labels, strict=True)]
    )
    named = sorted({domain for domain in domains if domain is not None})
    if not named or None in domains:
        return {"mAP": 100 * float(precision.mean())}
    member = np.array(domains)
    means = {domain: 100 * float(precision[member == domain].mean()) for domain in named}
    return {"mAP": float(np.mean([*means.values()])), **{f"mAP-{name}": mean for name, mean in means.items()}}


def average_precision(
    saliency: NDArray[np.float64], labels: NDArray[np.float64], ranking: Ranking
) -> NDArray[np.float64]:
    """Return the (A,) area under the precision-recall curve of one video for each rater, by the trapezoidal rule.

    Recall is relative to the highlights among the clips that count; a rater without any has 0. Equally salient clips
    keep their order.
    """
    order = np.argsort(-saliency[: len(labels)], kind="stable")[: ranking.top]
    lowest = np.sort(labels, axis=0)[(len(labels) - 1) // 2] if ranking.by_median else 0
    hits = (labels > lowest)[order].astype(np.float64)  # (N, A), most salient first
    found = hits.cumsum(axis=0)
    precision = found / np.arange(1, len(order) + 1)[:, None]
    before = np.concatenate([np.ones((1, hits.shape[1])), precision[:-1]])
    area: NDArray[np.float64] = (hits * (precision + before) / 2).sum(axis=0) / np.maximum(
        hits.sum(axis=0), 1
    )
    return area
