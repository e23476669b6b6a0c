"""The Sparse-Dense Side-Tuner (Sec. 3.3, Fig. 2): the recurrence of eq. 1 over cached backbone layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sdst.errors import UserError
from sdst.models.attention import POINTS, RDSA, AttentionOptions, Deformable
from sdst.models.checks import (
    check_levels,
    require_at_least,
    require_heads,
    require_one_of,
    require_positive,
    require_probabilities,
)
from sdst.models.denoising import Denoising
from sdst.models.dense_stream import SIGNALS, DenseStream
from sdst.models.heads import ActionnessHead, class_head, regression_head, saliency_scores
from sdst.models.interpolation import ClipAxis
from sdst.models.layers import AdaptivePool, alignment, sinusoidal, with_places
from sdst.models.proposals import ProposalHead, Start
from sdst.models.sparse_stream import REFERENCES, SparseStream, initial_references
from sdst.types import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


PAPERS_ATTENTION = RDSA()
"""Attention of the paper (Tab. A)."""


class SDST(nn.Module):
    """Two parallel streams along K levels of a frozen backbone; the defaults are the paper's (Tab. A).

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K.
        num_queries: M, the moment queries.
        dim: d, the hidden width.
        heads: H, of every attention.
        ffn_ratio: Hidden width of the feed-forward networks, in d.
        dropout: Dropout probability before each linear layer of the alignment MLPs.
        drop_path: Probability of dropping a residual update.
        sharing: Whether all levels share one set of stream weights; otherwise each level has its own (Tab. J).
            *Reading*: the alignment MLPs, the heads and the pooling are shared either way, which gives the paper's
            12.43 M parameters.
        signal: Stage of the dense stream that the sparse stream attends to (Tab. 6): raw, post_ca, post_ca_sa or
            post_ca_sa_ffn.
        modules: Modules of the sparse stream in the order in which they run (Tab. 7, N).
        attention: Attention that the module ``rdsa`` stands for (Tab. 5), with its own sizes: RDSA, Deformable or
            Standard of :mod:`sdst.models.attention`.
        references: Initial references R^0. ``spread``: evenly spaced centres, widths from a 32nd to all of the video;
            ``random``: uniform in (0, 1), as in DAB-DETR. *Reading*: the paper says that they are learnable.
        places: Whether each clip's start and end, as shares of the video, are two more features of each level (the
            "tef" of Moment-DETR and R2-Tuning). *Reading*: the paper does not mention them.
        denoising_groups: Groups of noised true moments in training, 0 for none, see
            :class:`sdst.models.denoising.Denoising`. *Reading*: Sec. 3.2 says that the sparse stream builds on DN-DETR,
            but names no denoising.
        denoising_noise: Largest shift of their boundaries, in half widths.
        stop_reference_gradient: Whether the next level treats a level's references as constants, as in DAB-DETR.
            *Reading.*
        roi_bins: Samples per moment of the actionness head.
        roi_context: Factor by which the actionness head widens a moment before it reads it, so that it sees what lies
            beyond the boundaries. *Reading*: 1.5 as in TadTR, on which the head builds; the "RoI scale 0" of Tab. A is
            the sampling ratio there. Without context long moments are ranked low (docs/learning.md).
        actionness_dim: Hidden width of the actionness head. *Reading*: 128 fits the paper's parameter count.

    Attributes:
        recompute: Whether training recomputes the activations of both streams and of the actionness head in the
            backward pass instead of keeping them: four tenths of the memory, a fifth more operations, equal gradients.
            The activations of the alignment MLPs, the widest, and of RDSA's preparation per level are kept.
        has_actionness: Whether the model predicts ``Output.actionness``, which the term ``act`` trains.
    """

    has_actionness: ClassVar[bool] = True

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        num_queries: int,
        *,
        dim: int = 256,
        heads: int = 8,
        ffn_ratio: int = 4,
        dropout: float = 0.5,
        drop_path: float = 0.25,
        sharing: bool = True,
        signal: str = "post_ca_sa_ffn",
        modules: Sequence[str] = ("ca", "sa", "rdsa", "ffn"),
        attention: AttentionOptions = PAPERS_ATTENTION,
        references: str = "spread",
        places: bool = False,
        denoising_groups: int = 0,
        denoising_noise: float = 1.0,
        stop_reference_gradient: bool = True,
        roi_bins: int = 16,
        roi_context: float = 1.5,
        actionness_dim: int = 128,
    ) -> None:
        super().__init__()
        self.recompute = False
        require_heads(dim, heads)
        require_at_least(1, num_queries=num_queries, levels=levels, ffn_ratio=ffn_ratio)
        require_at_least(1, roi_bins=roi_bins, actionness_dim=actionness_dim)
        require_probabilities(dropout=dropout, drop_path=drop_path)
        require_positive(roi_context=roi_context)
        require_one_of(REFERENCES, references=references)
        _check_variant(signal, modules, attention)
        if not denoising_groups and denoising_noise != 1:
            raise UserError("model.denoising_noise has no effect without model.denoising_groups; give both")
        self.dim, self.levels, self.signal = dim, levels, signal
        self.video_dim, self.text_dim = video_dim, text_dim
        self.stop_reference_gradient, self.places = stop_reference_gradient, places

        self.align_video = alignment(video_dim + 2 * places, dim, dropout)
        self.align_text = alignment(text_dim, dim, dropout)
        self.gates = nn.Parameter(torch.zeros(levels))  # γ^k
        self.references = nn.Parameter(initial_references(num_queries, references).logit())  # σ^{-1}(R^0)
        self.queries = nn.Parameter(torch.randn(num_queries, dim))  # Q^0
        start = attention.start if isinstance(attention, Deformable) else "learned"
        self.propose = ProposalHead(dim, pure=start == "pure") if start != "learned" else None
        self.proposing_level = (
            0 if isinstance(attention, Deformable) and attention.select_from == "first" else -1
        )
        self.denoising = Denoising(denoising_groups, denoising_noise)
        self.noised_query = nn.Parameter(torch.randn(dim)) if denoising_groups else None
        copies = 1 if sharing else levels
        self.dense = nn.ModuleList(DenseStream(dim, heads, ffn_ratio, drop_path) for _ in range(copies))

        self.sparse = nn.ModuleList(
            SparseStream(
                dim,
                heads,
                ffn_ratio,
                drop_path,
                modules,
                attention.make(dim, heads) if "rdsa" in modules else None,
            )
            for _ in range(copies)
        )
        self.pool_text = AdaptivePool(dim)
        self.classify = class_head(dim)
        self.regress = regression_head(dim)
        self.actionness = ActionnessHead(dim, roi_bins, actionness_dim, roi_context)

    def forward(
        self,
        video: Tensor,
        video_mask: Tensor,
        text: Tensor,
        text_mask: Tensor,
        num_clips: Tensor,
        *,
        truth: tuple[Tensor, Tensor] | None = None,
        with_offsets: bool = False,
    ) -> Output:
        """Ground a batch of queries in their videos.

        Args:
            video: (B, K, T, Dv) clip features of any float type; (1, K, T, Dv) if all queries are about one video, so
                that the part that does not depend on the query is computed once.
            video_mask: (B, T) true for valid clips, which come first.
            text: (B, K, L, Dt) token features, CLS first.
            text_mask: (B, L) true for valid tokens.
            num_clips: (B,) duration / clip length.
            truth: (B, G, 2) true (centre, width) and their (B, G) mask, for denoising in training.
            with_offsets: Whether to return the mean offsets (Fig. 4), if the attention has offsets.
        """
        check_levels(self.levels, video=video, text=text)
        axis = ClipAxis(video_mask, video_mask.sum(dim=1).float(), num_clips.float())
        if self.training:
            video = video.expand(len(text), -1, -1, -1)  # each query gets its own dropout
        if self.places:
            video = with_places(video.to(self.queries.dtype), video_mask[: len(video)])
        aligned_video = self._align(self.align_video, video)
        aligned_video = aligned_video.expand(len(text), -1, -1, -1)  # (B, K, T, d)
        aligned_text = self._align(self.align_text, text)  # (B, K, L, d)
        pooled_text = self.pool_text(aligned_text, text_mask.unsqueeze(1).expand(aligned_text.shape[:3]))

        signal, dense = self._unroll_dense(aligned_video, aligned_text, video_mask, text_mask)
        start = self._start(dense[self.proposing_level], axis)
        if not (self.training and self.denoising.groups):
            truth = None
        all_queries, all_references, offsets = self._unroll_sparse(
            start, signal, aligned_text, text_mask, axis, truth
        )
        class_logits = self.classify(all_queries).squeeze(-1)
        count = len(self.queries)  # noised queries come last
        references = all_references[:, :, :count]
        return Output(
            class_logits=class_logits[:, :, :count],
            references=references,
            saliency=saliency_scores(dense[-1], pooled_text[:, -1]),
            dense=dense[-1],
            query=pooled_text[:, -1],
            video=aligned_video,
            text=pooled_text,
            actionness=self._run(self.actionness, dense[-1], references[:, -1], axis),
            initial_references=start.moments,
            offsets=offsets if with_offsets else None,
            proposal_logits=start.class_logits,
            denoised_logits=class_logits[:, :, count:] if truth else None,
            denoised_references=all_references[:, :, count:] if truth else None,
        )

    def _run(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Call the function; in training with ``recompute``, without keeping its activations."""
        if self.recompute and self.training:
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def _align(self, mlp: nn.Module, features: Tensor) -> Tensor:
        """Apply eq. 2 to features in the type in which they are stored."""
        aligned: Tensor = mlp(features.to(self.queries.dtype))
        return aligned

    def _unroll_dense(
        self, video: Tensor, text: Tensor, video_mask: Tensor, text_mask: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Run eq. 3-4 over all levels; returns the sparse stream's signal (B, K, T, d) and D^1..D^K, each (B, T, d)."""
        words_mask = text_mask.clone()
        # Eq. 4 excludes CLS; a query of CLS alone keeps it, because attention needs at least one key.
        words_mask[:, 0] = text_mask.sum(dim=1) == 1
        positions = sinusoidal(torch.arange(video.shape[2], device=video.device), self.dim).to(video.dtype)
        gates = self.gates.sigmoid()
        signals: list[Tensor] = []
        all_dense: list[Tensor] = []
        # unbind instead of indexing: its gradient is one stack, not a sum of K tensors full of zeros.
        for level, (clips, tokens) in enumerate(zip(video.unbind(1), text.unbind(1), strict=True)):
            fused = gates[level] * clips  # D^0 is zero
            if all_dense:
                fused = fused + (1 - gates[level]) * all_dense[-1]
            stream = self.dense[level % len(self.dense)]
            stages = self._run(stream, fused, positions, video_mask, tokens, words_mask)
            signals.append(stages[self.signal])
            all_dense.append(stages[SIGNALS[-1]])
        return torch.stack(signals, dim=1), all_dense

    def _start(self, dense: Tensor, axis: ClipAxis) -> Start:
        """Return Q^0 and R^0, which are learned or selected from the clips (B, T, d) of one level."""
        if self.propose is not None:
            start: Start = self.propose(dense, self.queries, self.references, axis)
            return start
        # Float32 even under autocast: rounding to half precision would move a boundary by a twentieth of a clip.
        return Start(
            queries=self.queries.expand(len(dense), -1, -1),
            reference_logits=self.references.float().expand(len(dense), -1, -1),
            class_logits=None,
            moments=self.references.sigmoid().expand(len(dense), -1, -1),
        )

    def _unroll_sparse(
        self,
        start: Start,
        signal: Tensor,
        text: Tensor,
        text_mask: Tensor,
        axis: ClipAxis,
        truth: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run eq. 5-6 over all levels; returns Q (B, K, M, d), R (B, K, M, 2), mean offsets (B, K, M, H) or None.

        With true moments, the N noised queries follow the M others on the third axis.
        """
        # One call per set of weights prepares all the levels that share it.
        streams = cast("list[SparseStream]", list(self.sparse))
        shares = signal.chunk(len(streams), dim=1)
        memories = [
            memory
            for stream, share in zip(streams, shares, strict=True)
            for memory in stream.prepare(share, axis)
        ]
        queries, reference_logits, visible = start.queries, start.reference_logits, None
        if truth is not None:
            assert self.noised_query is not None
            noised = self.denoising.draw(truth[0])  # (B, N, 2)
            visible = self.denoising.visible(len(self.queries), truth[1])
            queries = torch.cat([queries, self.noised_query.expand(*noised.shape[:2], -1)], dim=1)
            reference_logits = torch.cat([reference_logits, noised.logit(eps=1e-4)], dim=1)
        all_queries, all_references, all_offsets = [], [], []
        for level, (tokens, memory) in enumerate(zip(text.unbind(1), memories, strict=True)):
            stream = streams[level % len(streams)]
            queries, offsets = self._run(
                stream, queries, reference_logits.sigmoid(), tokens, text_mask, memory, axis, visible
            )
            reference_logits = reference_logits + self._run(self.regress, queries).float()
            all_queries.append(queries)
            all_references.append(reference_logits.sigmoid())
            all_offsets.append(offsets)
            if self.stop_reference_gradient:
                reference_logits = reference_logits.detach()
        return (
            torch.stack(all_queries, dim=1),
            torch.stack(all_references, dim=1),
            None if all_offsets[0] is None else torch.stack(all_offsets, dim=1),
        )


def _check_variant(signal: str, modules: Sequence[str], attention: AttentionOptions) -> None:
    """Refuse an unknown signal, and choices about the attention to the video where the modules lack it."""
    require_one_of(SIGNALS, signal=signal)
    if not isinstance(attention, AttentionOptions):
        raise UserError(
            f"model.attention must be an attention of Tab. 5, got {attention!r}; choose it with attention=NAME"
        )
    if "rdsa" in modules:
        return
    chosen = {
        f"signal={signal}": signal != SIGNALS[-1],
        f"attention={attention.choice}": not isinstance(attention, RDSA),
    }
    if isinstance(attention, RDSA):
        chosen["attention.sampling"] = len(attention.sampling) < len(POINTS)
        chosen["attention.cnn_depth=0"] = attention.cnn_depth == 0
    for name, differs in chosen.items():
        if differs:
            raise UserError(
                f"model.{name} has no effect without 'rdsa' among model.modules, got {list(modules)}; "
                "choose another order or leave it out"
            )
