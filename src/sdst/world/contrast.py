"""The small backbone and its video-text contrast: the towers of ``sdst.features`` with one projection each.

As in InternVideo2's second stage, the adaptive pooling of the last block is aligned with the sentence, and the vision
tower's CLS token is not. Sentences are the mean of their tokens, and similarity is the inner product, because with CLS
states and a cosine the model did not learn motion in the first hundreds of steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdst.features.backbone.bert import TextTower
from sdst.features.backbone.internvideo2 import LayerScale, VisionTower
from sdst.features.encode import normalise
from sdst.world.captioned import FACTS
from sdst.world.grammar import MOTIONS

if TYPE_CHECKING:
    from sdst.features.backbone.sizes import BackboneConfig

JOINT_DIM = 64
WEIGHT_STD = 0.08
"""About 1 / sqrt(width); with the usual 0.02, meant for wide towers, the model learns motion much later."""
LAYER_SCALE = 0.3
"""About 1 / sqrt(depth), so that the blocks together add about as much as the patches hold."""


class DualEncoder(nn.Module):
    """Both towers and their projections into the joint space. The towers have the names of a checkpoint."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.vision_encoder = VisionTower(config.vision)
        self.text_encoder = TextTower(config.text)
        self.vision_proj = nn.Linear(config.vision.clip_embed_dim, JOINT_DIM)
        self.text_proj = nn.Linear(config.text.hidden_size, JOINT_DIM)
        initialise(self.vision_encoder)
        _initialise_text(self.text_encoder)

    def encode_clips(self, frames: Tensor) -> Tensor:
        """Map (N, 3, F, S, S) uint8 frames to (N, JOINT_DIM) embeddings of any norm."""
        *_, tokens = self.vision_encoder.states(normalise(frames))
        pooled: Tensor = self.vision_proj(self.vision_encoder.pool(tokens, "adaptive"))
        return pooled

    def encode_sentences(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Map (N, L) token ids and their (N, L) mask to (N, JOINT_DIM) embeddings of any norm."""
        states = self.text_encoder(input_ids, mask, [self.text_encoder.num_layers])[:, :, 0]
        pooled = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        projected: Tensor = self.text_proj(pooled)
        return projected


def contrastive_loss(similarity: Tensor, shown: Tensor, known: Tensor) -> Tensor:
    """InfoNCE with several positives, from clips to sentences, from sentences to clips, and among motions of a thing.

    The third part contrasts each true sentence with those that name another motion of the same thing, which single
    pictures of a clip cannot distinguish.

    Args:
        similarity: (N, facts) similarity of clips and sentences of the known facts, in the order of ``FACTS``.
        shown: (N, len(FACTS)) whether the clip shows the fact.
        known: (len(FACTS),) whether the fact is known in training.
    """
    everything = similarity.new_full(shown.shape, -torch.inf)
    everything[:, known] = similarity
    true = shown.nonzero(as_tuple=True)
    per_clip = shown.sum(dim=1)[true[0]]
    per_sentence = shown.sum(dim=0)[true[1]]
    to_sentences = everything.log_softmax(dim=1)[true] / per_clip / len(shown)
    to_clips = everything[:, known].log_softmax(dim=0)
    to_clips = to_clips.new_zeros(shown.shape).index_copy(1, known.nonzero()[:, 0], to_clips)[true]
    to_clips = to_clips / per_sentence / shown.any(dim=0).sum()
    motions = everything.reshape(len(shown), -1, len(MOTIONS)).log_softmax(dim=2).flatten(1)[true]
    loss: Tensor = -(to_sentences.sum() + to_clips.sum()) / 2 - motions.mean()
    return loss


def motion_loss(similarity: Tensor, meanings: Tensor, shown: Tensor) -> Tensor:
    """InfoNCE from clips to sentences that only name a motion; they are few and frequent, so motion is learned first.

    Args:
        similarity: (N, S) similarity of clips and sentences.
        meanings: (S,) index of each sentence's motion.
        shown: (N, len(FACTS)) whether the clip shows the fact.
    """
    true = shown.reshape(len(shown), -1, len(MOTIONS)).any(dim=1)[:, meanings]  # (N, S)
    share = true / true.sum(dim=1, keepdim=True)
    loss: Tensor = -(similarity.log_softmax(dim=1) * share).sum(dim=1).mean()
    return loss


def retrieval(similarity: Tensor, shown: Tensor, held_out: Tensor) -> dict[str, float]:
    """Measure retrieval between clips and sentences of all facts, in percent.

    Args:
        similarity: (N, len(FACTS)) similarity of clips and sentences.
        shown: (N, len(FACTS)) whether the clip shows the fact.
        held_out: (len(FACTS),) whether the fact counts; the others are still candidates.

    Returns:
        ``motion``: how often the true motion of a shown thing is the most similar of the ten; ``thing``: how often
        the true sentence is more similar than that of a random absent thing with the same motion; ``mAP``: mAP of the
        clips retrieved for each sentence.
    """
    clips, facts = (shown & held_out).nonzero(as_tuple=True)
    by_motion = similarity.reshape(len(shown), -1, len(MOTIONS))[clips, facts // len(MOTIONS)]  # (P, motions)
    motion = by_motion.argmax(dim=1) == facts % len(MOTIONS)
    same_motion = torch.arange(len(FACTS)) % len(MOTIONS) == (facts % len(MOTIONS))[:, None]
    absent = same_motion & ~shown[clips]  # (P, facts)
    closer = similarity[clips, facts][:, None] > similarity[clips]
    ranked = shown.gather(0, similarity.argsort(dim=0, descending=True))[
        :, (shown & held_out).any(dim=0)
    ].float()
    precision = ranked.cumsum(dim=0) / torch.arange(1, len(shown) + 1)[:, None]
    average = (precision * ranked).sum(dim=0) / ranked.sum(dim=0)
    return {
        "motion": round(100 * motion.float().mean().item(), 1),
        "thing": round(100 * ((closer & absent).sum(1) / absent.sum(1)).mean().item(), 1),
        "mAP": round(100 * average.mean().item(), 1),
    }


def initialise(tower: VisionTower) -> None:
    """Initialise a narrow tower so that it learns motion early.

    Patch weights start as the lowest frequencies of a cosine transform over time, height and width; positions as sines.
    """
    for module in tower.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=WEIGHT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, LAYER_SCALE)
    nn.init.normal_(tower.cls_token, std=0.02)
    conv = tower.patch_embed[0]
    assert isinstance(conv, nn.Conv3d)
    with torch.no_grad():
        conv.weight.copy_(0.15 * _low_frequencies(conv.weight.shape))
        assert conv.bias is not None
        conv.bias.zero_()
        tower.pos_embed[0, 1:] = 0.3 * _sines(tower.config.grid, tower.config.embed_dim)


def _low_frequencies(shape: torch.Size) -> Tensor:
    """Return the ``shape[0]`` smoothest of all cosine waves (3, time, height, width)."""
    _, _, time, side, _ = shape
    along_time, along_side = _cosines(time), _cosines(side)
    colours = F.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]), dim=1)
    t, c, y, x = torch.meshgrid(*(torch.arange(n) for n in (time, 3, side, side)), indexing="ij")
    roughness = 0.7 * t + (c > 0) + y + x
    order = roughness.flatten().argsort(stable=True)[: shape[0]]
    t, c, y, x = (index.flatten()[order] for index in (t, c, y, x))
    return torch.einsum("nc,nt,ny,nx->nctyx", colours[c], along_time[t], along_side[y], along_side[x])


def _cosines(length: int) -> Tensor:
    """Return the (length, length) orthonormal cosine transform."""
    steps = torch.arange(length) + 0.5
    waves = torch.cos(math.pi / length * torch.arange(length)[:, None] * steps)
    return F.normalize(waves, dim=1)


def _sines(grid: tuple[int, int, int], dim: int) -> Tensor:
    """Return (tokens, dim) sines: half of the channels for time, a quarter each for height and width."""
    parts = []
    for axis, (size, width) in enumerate(zip(grid, (dim // 2, dim // 4, dim // 4), strict=True)):
        angles = torch.arange(size)[:, None] * torch.exp(
            -math.log(100) * torch.arange(width // 2) / (width // 2)
        )
        sines = torch.cat([angles.sin(), angles.cos()], dim=1)
        shape = [1, 1, 1, width]
        shape[axis] = size
        parts.append(sines.view(shape).expand(*grid, width))
    return torch.cat(parts, dim=-1).flatten(0, 2)


def _initialise_text(tower: TextTower) -> None:
    """Initialise words to differ more than positions do, so that sentences with one different word differ at once."""
    for module in tower.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=WEIGHT_STD)
    nn.init.normal_(tower.bert.embeddings.word_embeddings.weight)
