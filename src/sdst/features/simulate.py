"""Simulated features for a real annotation file: the right shapes, and a signal that a model can learn.

They stand for real features where those are missing, so each property copies one of real features:

- **Words are directions** in a space of concepts, fixed by a hash. A word means the same in every file, so what is
  learned on training videos holds for new sentences. A query is the mean of its content words.
- **A clip shows** the queries whose moments cover it, however long those are, and distractors: near misses, which share
  about half of a query's words, and events of common words that nobody annotated. Distractors have all lengths, so
  their length does not betray them.
- **Each layer knows something of its own.** A concept is seen best in one layer and less in the others, as probes of
  transformers find. Most concepts are best in deep layers, so the last layer is the best one, but several together
  know more. Each layer has noise of its own; the background is the same in all, because residual connections keep it.
- **Neighbouring clips are alike.** Background and noise change slowly, within seconds, and a part of the background
  stays for the whole video: its place, its people, its camera.
- **Features lie in a cone.** A direction that all clips share holds about half of their squared norm (Ethayarajh, EMNLP
  2019; Liang et al., NeurIPS 2022). A video feature has about unit variance, a text feature that of BERT's normalised
  states, and shallower layers are smaller, as in a residual stream.
- **No pooling is better** than another: each has its own maps, and noise of the same size.

Outlier dimensions, shot cuts and the order of words are left out. All randomness follows from (seed, name), never from
the order or presence of other rows, except that the queries of one video belong together.

The features are made from the annotated windows, so results on them say nothing about a real model.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.console.progress import progress_bars
from sdst.data.info import query_hash
from sdst.errors import UserError
from sdst.features.simulated_concepts import (
    NUM_CONCEPTS,
    generator,
    normal,
    slow,
    text_concepts,
    video_concepts,
)
from sdst.features.writer import FeatureWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sdst.types import Record

BACKBONE = "simulated"
DESIGN = 2
"""Number of the design above. Features of another design are other features, even with the same seed."""
NUM_VIDEO_LAYERS, NUM_TEXT_LAYERS = 40, 19  # InternVideo2-1B and its BERT

VIDEO_NOISE, TEXT_NOISE = 1.5, 0.6  # norm of a layer's own noise, in concept space
STEADY_SHARE = 0.7  # of the squared norm of video noise: the part that changes slowly
BEST_LAYER = 0.5  # share of the concepts that the last layer sees best, the one before of the rest, and so on
LAYERS_SEEN = 1.5  # distance in layers at which a concept's gain above LEAST_GAIN has fallen to 1/e
LEAST_GAIN = 0.2
LAYER_SHARE = 0.5  # weight of a layer's own map; the rest is shared by all layers
VIDEO_CONE, TEXT_CONE = 1.3, 0.8  # norm of the common direction, about that of concepts and noise together
VIDEO_SCALE, TEXT_SCALE = 0.6, 0.5  # root mean square of a feature of the last layer is about 1 and 0.6
SHALLOWER = 0.95  # scale of a layer relative to the next deeper one


@dataclass(frozen=True)
class Tower:
    """How the layers of one tower see concepts.

    Attributes:
        gains: (n, C) how strongly each layer sees each concept.
        maps: (n, C, width) from concepts to features.
        cones: (n, width) direction that all features of a layer share.
        scales: (n,) size of each layer's features.
    """

    gains: NDArray[np.float32]
    maps: NDArray[np.float32]
    cones: NDArray[np.float32]
    scales: NDArray[np.float32]

    @classmethod
    def draw(
        cls, name: str, layers: Sequence[int], width: int, cone_norm: float, scale: float, seed: int
    ) -> Tower:
        """The last layers of a tower, with a ``cone_norm`` relative to concepts and the ``scale`` of the last one."""
        back = layers[-1] - np.array(layers)
        best = (
            generator(seed, name, "best layers").geometric(BEST_LAYER, NUM_CONCEPTS) - 1
        )  # counted like back
        gains = LEAST_GAIN + (1 - LEAST_GAIN) * np.exp(-np.abs(back[:, None] - best) / LAYERS_SEEN)
        shared = _orthogonal(width, generator(seed, name, "all layers"))
        cone = generator(seed, name, "cone").standard_normal(width)
        maps, cones = [], []
        for layer in layers:
            rng = generator(seed, name, f"layer {layer}")
            maps.append((1 - LAYER_SHARE) * shared + LAYER_SHARE * _orthogonal(width, rng))
            own = (1 - LAYER_SHARE) * cone + LAYER_SHARE * rng.standard_normal(width)
            cones.append(cone_norm * width**0.5 * own / np.linalg.norm(own))
        parts = (gains, np.stack(maps), np.stack(cones), scale * SHALLOWER**back)
        return cls(*(part.astype(np.float32) for part in parts))

    def observe(self, concepts: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, n, width) features of (N, C) concepts and each layer's (n, N, C) noise."""
        seen = self.gains[:, None] * concepts + noise
        features: NDArray[np.float32] = np.matmul(seen, self.maps)
        features += self.cones[:, None]
        features *= self.scales[:, None, None]
        return features.transpose(1, 0, 2)


@dataclass(frozen=True)
class Simulation:
    """Simulated features of the videos and queries of annotation files.

    Attributes:
        videos: vid -> its rows.
        queries: qid as text -> its row.
        video_layers: Numbers of the vision layers, from shallow to deep.
        text_layers: Numbers of the text layers.
        clip_seconds: Length of a clip.
        seed: Seed of all draws.
        video_towers: Pooling -> how the vision layers see.
        text_tower: How the text layers see.
    """

    videos: dict[str, list[Record]]
    queries: dict[str, Record]
    video_layers: range
    text_layers: range
    clip_seconds: float
    seed: int
    video_towers: dict[str, Tower]
    text_tower: Tower

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        *,
        clip_seconds: float = 2.0,
        video_dim: int = 768,
        text_dim: int = 1024,
        levels: int = 4,
        poolings: Sequence[str] = ("adaptive",),
        seed: int = 0,
    ) -> Simulation:
        """Draw the towers.

        Args:
            records: Rows of all annotation files that the features are for.
            clip_seconds: Length of a clip.
            video_dim: Width Dv of video features.
            text_dim: Width Dt of query features.
            levels: Number of layers of each tower, the deepest ones.
            poolings: Poolings of the video features.
            seed: Seed of all draws; another seed gives other features with the same statistics.

        Raises:
            UserError: Two rows share a qid but differ; a size is out of range.
        """
        if not 1 <= levels <= NUM_TEXT_LAYERS:
            raise UserError(f"levels must be from 1 to {NUM_TEXT_LAYERS}, got {levels}")
        if min(video_dim, text_dim) < 1 or not clip_seconds > 0:
            raise UserError(
                f"widths and clip length must be positive, got {video_dim}, {text_dim} and {clip_seconds}"
            )
        queries = _queries_by_qid(records)
        videos = defaultdict(list)
        for record in queries.values():
            videos[record.vid].append(record)
        video_layers = range(NUM_VIDEO_LAYERS - levels + 1, NUM_VIDEO_LAYERS + 1)
        text_layers = range(NUM_TEXT_LAYERS - levels + 1, NUM_TEXT_LAYERS + 1)
        video_towers = {
            pooling: Tower.draw(f"video {pooling}", video_layers, video_dim, VIDEO_CONE, VIDEO_SCALE, seed)
            for pooling in poolings
        }
        text_tower = Tower.draw("text", text_layers, text_dim, TEXT_CONE, TEXT_SCALE, seed)
        return cls(videos, queries, video_layers, text_layers, clip_seconds, seed, video_towers, text_tower)

    def video(self, vid: str, pooling: str) -> NDArray[np.float32]:
        """Features (T, n, Dv) of a video."""
        concepts = video_concepts(self.videos[vid], self.clip_seconds, self.seed)
        rng = generator(self.seed, f"video noise {pooling}", vid)
        noise = _video_noise((len(self.video_layers), *concepts.shape), self.clip_seconds, rng)
        return self.video_towers[pooling].observe(concepts, noise)

    def text(self, qid: str) -> NDArray[np.float32]:
        """Features (L, n, Dt) of a query."""
        concepts = text_concepts(self.queries[qid].query)
        rng = generator(self.seed, "text noise", qid)
        noise = TEXT_NOISE * normal(rng, (len(self.text_layers), *concepts.shape))
        return self.text_tower.observe(concepts, noise)


def write_simulated(records: Sequence[Record], out: str | Path, **sizes: Any) -> None:
    """Write a feature file with simulated features of all videos and queries, continuing one that was killed.

    Args:
        records: Rows of all annotation files that the features are for.
        out: The feature file to write.
        sizes: Arguments of :meth:`Simulation.of`.

    Raises:
        UserError: See :meth:`Simulation.of`; or the file exists.
    """
    try:
        simulation = Simulation.of(records, **sizes)
    except UserError as error:
        raise UserError(f"{out}: {error}") from None
    widths = [tower.maps.shape[2] for tower in (*simulation.video_towers.values(), simulation.text_tower)]
    writer = FeatureWriter(
        out,
        backbone=BACKBONE,
        video_layers=simulation.video_layers,
        text_layers=simulation.text_layers,
        clip_seconds=simulation.clip_seconds,
        simulated=True,
        extra={"simulation": f"design {DESIGN}, seed {simulation.seed}, widths {widths[0]} and {widths[-1]}"},
    )
    with writer:
        with progress_bars() as progress:
            for vid in progress.track(simulation.videos, description="simulating videos"):
                for pooling in simulation.video_towers:
                    if not writer.has_video(vid, pooling):
                        writer.write_video(pooling, vid, simulation.video(vid, pooling))
            for qid, row in progress.track(simulation.queries.items(), description="simulating queries"):
                if not writer.has_text(qid, known := query_hash(row.query)):
                    writer.write_text(qid, simulation.text(qid), known)
        writer.finish()


def _queries_by_qid(records: Sequence[Record]) -> dict[str, Record]:
    queries: dict[str, Record] = {}
    for record in records:
        known = queries.setdefault(str(record.qid), record)
        if (known.vid, known.query) != (record.vid, record.query):
            raise UserError(f"qid {record.qid} stands for two different rows; give files with unique qids")
    return queries


def _orthogonal(width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(C, width) map with orthonormal rows (columns if width < C), scaled to mean square 1 per feature."""
    tall = rng.standard_normal((max(width, NUM_CONCEPTS), min(width, NUM_CONCEPTS)))
    basis: NDArray[np.float64] = width**0.5 * np.linalg.qr(tall).Q
    return basis if width < NUM_CONCEPTS else basis.T


def _video_noise(
    shape: tuple[int, int, int], clip_seconds: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(n, T, C) noise of each layer, a part of which changes slowly."""
    noise = slow(normal(rng, shape), clip_seconds)
    noise *= STEADY_SHARE**0.5
    noise += np.float32((1 - STEADY_SHARE) ** 0.5) * normal(rng, shape)
    noise *= VIDEO_NOISE
    return noise
