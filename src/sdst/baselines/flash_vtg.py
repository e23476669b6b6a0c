"""FlashVTG: moments from the points of a pyramid over clips that attend to words or dummies (``model=flash_vtg``).

Source: Cao et al., FlashVTG: Feature Layering and Adaptive Score Handling Network for Video Temporal Grounding,
WACV 2025, and its official code: with the official weights (``convert_official``), outputs, losses and gradients are
the same. CG-DETR has the same tokens, attention to words and highlight losses; R2-Tuning has the same boundaries and
moment losses, and the same pyramid with one level less.

Two things of the official code are left out: padding changes its results, and it misses a part of the highlight losses
(``highlight_terms``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.adaptive import (
    AdaptiveLayers,
    AdaptiveOutput,
    Dummies,
    TokenTypes,
    differs_from_next,
    highlight_terms,
    words_share,
)
from sdst.baselines.detr.highlights import clip_pairs, votes
from sdst.baselines.detr.layers import EncoderLayer, GlobalSaliency
from sdst.baselines.detr.model import DetrModel, SameOptions
from sdst.baselines.detr.official import ADAPTIVE, PROJECTIONS, renamed
from sdst.baselines.pyramid import PointHead, Pyramid
from sdst.losses.criterion import Criterion
from sdst.losses.moment import mean_of
from sdst.losses.saliency import sampled_nce
from sdst.models.checks import require_at_least
from sdst.models.layers import AdaptivePool, mlp
from sdst.spans import se_to_cw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from sdst.baselines.detr.adaptive import Attended
    from sdst.baselines.detr.inputs import Aligned
    from sdst.baselines.detr.layers import LayerSizes
    from sdst.losses.criterion import Terms
    from sdst.types import Anchors, Batch, Output

OFFICIAL_NAMES = {
    **PROJECTIONS,
    **ADAPTIVE,
    # Level i of stride 2^i has i halvings, each of which is five modules in the official code.
    **{
        rf"pyramid\.blocks\.{i}\.{5 * halving + module}": f"pyramid.levels.{i}.{halving}.{ours}"
        for i in range(1, 5)
        for halving in range(i)
        for module, ours in {1: "conv", 3: "norm"}.items()
    },
    r"pooling\.att\.weight": "pool_text.score",
    **{
        rf"{official}\.{part}": f"{ours}.{module}"
        for official, ours in (("class_head", "score_level"), ("conf_head", "score_all"))
        for part, module in (("convs", "convs"), ("fc", "read"))
    },
    "x": "mix",
    r"coord_head\.module\.1": "regress.hidden",
    r"coord_head\.module\.3": "regress.out",
    "coef": "scales",
}
"""Pattern of the official code's names -> name in ``FlashVTG`` (strides 1 to 16)."""
OFFICIAL_UNUSED = ("txt_position_embed.",)
"""Beginnings of official names without effect: positions of words."""
WEIGHT_SCALE = 0.02
"""Standard deviation of new matrices of the encoder."""
LEAST_RANGE = 1e-6
"""Smallest range of scores or labels that is stretched to [0, 1]."""


class FlashCriterion(Criterion):
    """Moment losses of R2-Tuning's points, ``sal`` and ``attn`` as in ``highlight_terms``, and two more terms.

    * ``nce``: the clip with the most votes is closer to the query than others (``sampled_nce``);
    * ``label``: scores of the finest points are proportional to votes.
    """

    terms = (*Criterion.terms, "attn", "nce", "label")

    def losses(self, output: Output, batch: Batch) -> Terms:
        """Return the function of every term."""
        assert isinstance(output, AdaptiveOutput)
        read = output.dense.shape[1]
        mask = batch.video_mask[:, :read]

        def nce() -> Tensor:
            pairs = clip_pairs(batch)
            highest = pairs.higher[:, 0]
            positive = highest.masked_fill(~pairs.mask | (highest >= read), -1)
            saliency = batch.saliency[:, :read]
            return sampled_nce(
                output.dense,
                output.query,
                saliency,
                mask,
                positive,
                batch.video_index,
                temperature=self.temperature,
            )

        def label() -> Tensor:
            scores, wanted = output.class_logits[:, 0, :read], votes(batch)[:, :read]
            return mean_of((stretched(scores, mask) - stretched(wanted, mask)).square(), mask)

        return super().losses(output, batch) | highlight_terms(output, batch) | {"nce": nce, "label": label}


def stretched(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the clips (B, T) of the whole batch, mapped to [0, 1] where ``mask`` is true."""
    least = values.masked_fill(~mask, torch.inf).amin()
    most = values.masked_fill(~mask, -torch.inf).amax()
    return (values - least) / (most - least).clamp(min=LEAST_RANGE)


class FlashEncoder(nn.Module):
    """Clips attend to dummies and words, then to each other.

    Args:
        sizes: Sizes of every layer.
        text_layers: Number of layers in which clips attend to dummies and words.
        layers: Number of layers in which clips attend to each other.
    """

    def __init__(self, sizes: LayerSizes, *, text_layers: int, layers: int) -> None:
        super().__init__()
        require_at_least(1, encoder_layers=layers)
        self.text_layers = AdaptiveLayers(sizes, text_layers)
        self.layers = nn.ModuleList(EncoderLayer(*sizes, nn.PReLU()) for _ in range(layers))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=WEIGHT_SCALE)

    def forward(self, given: Aligned, attended: Attended) -> tuple[Tensor, Tensor]:
        """Encode clips with their words: (B, T, d) clips and (B, T, n + L) attention weights."""
        clips, weights = self.text_layers(given.clips, given.positions, attended)
        for layer in self.layers:
            clips = layer(clips, given.positions, given.clip_mask)
        return clips, weights


class ScoreHead(nn.Module):
    """Convolutions along a sequence of points, then an MLP; points that do not exist stay zero in between.

    Args:
        dim: d.
        kernel: Width of the convolutions, in points.
        conv_layers: Number of convolutions.
        mlp_layers: Number of linear layers.
    """

    def __init__(self, dim: int, *, kernel: int, conv_layers: int, mlp_layers: int) -> None:
        super().__init__()
        require_at_least(1, kernel=kernel, conv_layers=conv_layers, mlp_layers=mlp_layers)
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, kernel, padding="same") for _ in range(conv_layers))
        self.read = mlp(dim, dim // 2, 1, depth=mlp_layers)

    def forward(self, points: Tensor, mask: Tensor) -> Tensor:
        """Map (B, A, d) points with their (B, A) mask to (B, A)."""
        exists = mask.unsqueeze(1)
        x = points.transpose(1, 2)
        for conv in self.convs:
            x = F.relu(conv(x * exists))
        scores: Tensor = self.read(x.transpose(1, 2))
        return scores.squeeze(2)


class FlashVTG(DetrModel):
    """FlashVTG with the options of its official configuration for QVHighlights with InternVideo2.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K of the features, of which the last one is read.
        text_layers: Number of layers in which clips attend to dummies and words.
        encoder_layers: Number of layers in which clips attend to each other.
        dummy_layers: Number of layers that encode the dummies with the words.
        dummies: Number of dummies.
        strides: Strides of the pyramid's levels, in clips.
        kernel: Width of the score heads' convolutions, in points.
        conv_layers: Number of convolutions of a score head.
        mlp_layers: Number of linear layers of a score head.
        drop_path: Probability of dropping a whole residual update.
        max_words: Number of words that are read; None for all.
        options: Options of every ``DetrModel``.
    """

    criterion = FlashCriterion

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        *,
        text_layers: int = 6,
        encoder_layers: int = 3,
        dummy_layers: int = 2,
        dummies: int = 40,
        strides: Sequence[int] = (1, 2, 4, 8, 16),
        kernel: int = 5,
        conv_layers: int = 1,
        mlp_layers: int = 5,
        drop_path: float = 0.1,
        max_words: int | None = 40,
        **options: Unpack[SameOptions],
    ) -> None:
        super().__init__(video_dim, text_dim, levels, drop_path=drop_path, max_words=max_words, **options)
        dim = self.sizes.dim
        self.types = TokenTypes(dim)
        self.dummies = Dummies(self.sizes, layers=dummy_layers, count=dummies)
        self.encoder = FlashEncoder(self.sizes, text_layers=text_layers, layers=encoder_layers)
        self.saliency = GlobalSaliency(dim)
        self.pool_text = AdaptivePool(dim)
        self.pyramid = Pyramid(dim, strides)
        self.score_level, self.score_all = (
            ScoreHead(dim, kernel=kernel, conv_layers=conv_layers, mlp_layers=mlp_layers) for _ in range(2)
        )
        self.mix = nn.Parameter(torch.tensor(0.5))
        self.regress = PointHead(dim, 2)
        self.scales = nn.Parameter(torch.ones(len(strides)))

    def ground(self, given: Aligned, labels: Batch | None) -> AdaptiveOutput:
        """Ground aligned words in aligned clips, in training also the words of the next sample; moments in clips."""
        given = self.types(given)
        attended = self.dummies(given.words, given.word_mask)
        memory, weights = self.encoder(given, attended)
        # The official ReLU works in place, so all later steps use its result, not only the finest level.
        clips = F.relu(memory)
        anchors = self.pyramid.anchors(given.clip_mask)
        class_logits, moments = self._read(self.pyramid(clips), anchors)
        output = AdaptiveOutput(
            class_logits=class_logits.unsqueeze(1),
            references=moments.unsqueeze(1),
            saliency=self._saliency(memory, given.clip_mask),
            dense=clips,
            query=self.pool_text(given.words, given.word_mask),
            video=given.clips.unsqueeze(1),
            text=given.words[:, :1],
            anchors=anchors,
            attention=words_share(weights, attended),
        )
        if labels is not None:
            wrong = attended.rolled()
            memory, weights = self.encoder(given, wrong)
            output.negative_saliency = self._saliency(memory, given.clip_mask)
            output.negative_attention = words_share(weights, wrong)
            output.has_negative = differs_from_next(labels)
        return output

    def to_video(self, references: Tensor, video_mask: Tensor, num_clips: Tensor) -> Tensor:
        """Map moments in clips to shares of the video."""
        return references / num_clips.view(-1, 1, 1, 1)

    def _saliency(self, memory: Tensor, mask: Tensor) -> Tensor:
        whole = (memory * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        scores: Tensor = self.saliency(memory, whole)
        return scores

    def _read(self, levels: Sequence[Tensor], anchors: Anchors) -> tuple[Tensor, Tensor]:
        """Predict class logits (B, A), and (centre, width) (B, A, 2) of each point's moment in clips; both float32.

        One score of a point is read from its level, the other from the sequence of all levels' points.
        """
        sizes = [level.shape[1] for level in levels]
        # In float32 even under autocast, like the official heads, because the distances are exponentials.
        with torch.autocast(anchors.mask.device.type, enabled=False):
            points = [level.float() for level in levels]
            pairs = list(zip(points, torch.split(anchors.mask, sizes, dim=1), strict=True))
            by_level = torch.cat([self.score_level(*pair) for pair in pairs], dim=1)
            # Without padding the levels follow each other immediately.
            order = anchors.mask.int().argsort(dim=1, descending=True, stable=True)
            together = torch.cat(points, dim=1).take_along_dim(order.unsqueeze(2), dim=1)
            scores = self.score_all(together, anchors.mask.gather(1, order))
            over_all = torch.zeros_like(scores).scatter(1, order, scores)
            class_logits = self.mix * by_level + (1 - self.mix) * over_all
            distances = torch.cat(
                [self.regress(*pair).exp() * scale for pair, scale in zip(pairs, self.scales, strict=False)],
                dim=1,
            )
        start, end = (distances * anchors.stride.unsqueeze(1)).unbind(dim=-1)
        return class_logits, se_to_cw(torch.stack([anchors.position - start, anchors.position + end], dim=-1))


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of the official code to one of ``FlashVTG``.

    Raises:
        UserError: A name is unknown.
    """
    converted = renamed(weights, OFFICIAL_NAMES, OFFICIAL_UNUSED)
    for name, value in converted.items():
        if name == "pool_text.score":  # a matrix of one row in the official code
            converted[name] = value.flatten()
        elif value.dim() == 4:  # convolutions along points are those of images of one row
            converted[name] = value.squeeze(2)
    return converted
