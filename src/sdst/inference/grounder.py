"""The Python interface: a trained model with its backbone, asked about video files.

::

    grounder = sdst.load("best.ckpt", "internvideo2-1b.pt", vocab="vocab.txt")
    video = grounder.encode("holiday.mp4")
    for prediction in grounder.predict(video, ["a dog jumps into the water", "people eat ice cream"]):
        print(prediction.query, prediction.windows[0])

Features are made as ``sdst extract`` makes them and rounded as the feature file rounds them. A video of at most
the length of the longest training video is predicted in one piece, exactly as from stored features. A longer
one is predicted in overlapping parts of that length (``sdst.inference.sliding``): moments of all parts go through one
soft-NMS, and saliency is averaged where parts overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdst.config.schema import Decoding
from sdst.data.collate import collate
from sdst.data.dataset import Sample
from sdst.data.float16 import to_float16
from sdst.data.jsonlines import is_unicode
from sdst.errors import UserError
from sdst.features.backbone.backbone import Backbone, load_backbone, usable_device
from sdst.features.backbone.sizes import SHIPPED
from sdst.features.encode import QUERIES_PER_BATCH, encode_clips
from sdst.inference.sliding import average_parts, part_starts
from sdst.models.decoding import clip_saliency, decode_moments, raw_moments
from sdst.training import checkpoint as checkpoints
from sdst.types import Prediction, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from sdst.features.video import ClipSpec

CLIPS_PER_BATCH = 16
SAMPLES_PER_BATCH = 32
NO_BACKBONE = "no backbone was loaded; give sdst.load the backbone's checkpoint and vocab.txt"


def load(
    checkpoint: str | Path,
    backbone: Backbone | str | Path | None = None,
    *,
    backbone_config: str | Path = "internvideo2-1b",
    vocab: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Grounder:
    """A trained model ready to be asked about videos.

    Args:
        checkpoint: ``best.ckpt`` or ``last.ckpt`` of a run.
        backbone: The backbone's official checkpoint (``.pt`` or ``.safetensors``), or a loaded backbone, which
            several models may share. Without one, a model trained on features of a backbone that comes with the
            package gets that; of any other, only ``Grounder.predict_encoded`` works.
        backbone_config: Its preset or JSON file; not used for a loaded backbone.
        vocab: Its ``vocab.txt``; not used for a loaded backbone.
        device: Where model and backbone are put; by default the first GPU, else the CPU. A loaded backbone
            stays where it is.

    Raises:
        UserError: A file that cannot be used, or a backbone other than that of the training features.
    """
    where = usable_device(device)
    model, config, recipe = checkpoints.load(checkpoint)
    if isinstance(backbone, str | Path):
        backbone = load_backbone(backbone, backbone_config, vocab=vocab, device=where)
    elif backbone is None and recipe["backbone"] in SHIPPED:
        backbone = load_backbone(None, recipe["backbone"], device=where)
    return Grounder(model.to(where), Decoding(**config["decode"]), recipe, backbone, where)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedVideo:
    """A video's features, to be asked any number of queries.

    Attributes:
        vid: The video's name; that of a file has no extension.
        duration: Seconds.
        features: (K, T, Dv) float16, as a feature file holds them.
    """

    vid: str
    duration: float
    features: NDArray[np.float16]


class Grounder:
    """A trained model and the backbone of its features; see ``load``.

    Attributes:
        recipe: How the features were made that the model was trained on.
        spec: How a video file becomes clips, after the recipe; None without a backbone.
    """

    def __init__(
        self,
        model: nn.Module,
        decoding: Decoding,
        recipe: dict[str, Any],
        backbone: Backbone | None,
        device: torch.device,
    ) -> None:
        self.recipe = recipe
        self.spec = None if backbone is None else _clip_spec(backbone, recipe)
        self._model = model
        self._decoding = decoding
        self._backbone = backbone
        self._device = device

    def encode(
        self, video: str | Path, advance: Callable[[int], object] = lambda count: None
    ) -> EncodedVideo:
        """Decode and encode a video, once for all queries.

        Args:
            video: The file.
            advance: Told the number of clips after every batch.

        Raises:
            VideoError: The file cannot be used.
        """
        from sdst.features.clip_loader import load_clips
        from sdst.features.video import VideoError

        if self._backbone is None or self.spec is None:
            raise UserError(NO_BACKBONE)
        path, pooling = Path(video), self.recipe["pooling"]
        parts = []
        duration = 0.0
        for batch in load_clips([(path.stem, path)], self.spec, CLIPS_PER_BATCH, num_workers=0):
            if batch.failure is not None:
                raise VideoError(batch.failure)
            if batch.clips is not None:
                encoded = encode_clips(self._backbone, batch.clips, self.recipe["video_layers"], [pooling])
                parts.append(encoded[pooling])
                advance(len(batch.clips))
            duration = batch.duration or duration
        features = to_float16(np.concatenate(parts), str(path)).transpose(1, 0, 2)
        return EncodedVideo(path.stem, duration, features)

    def predict(self, video: EncodedVideo | str | Path, queries: Sequence[str]) -> list[Prediction]:
        """Moments and saliency of each query, in their order; ``qid`` is the query's index.

        Args:
            video: An encoded video, or a file to encode.
            queries: Sentences.

        Raises:
            UserError: A query is empty or no text, or the file cannot be used.
        """
        if isinstance(queries, str):
            raise TypeError("queries must be a list of sentences, not one string")
        if self._backbone is None:
            raise UserError(NO_BACKBONE)
        if empty := [index for index, query in enumerate(queries) if not query.strip()]:
            raise UserError(f"query {empty[0]} is empty; give a sentence")
        if broken := [index for index, query in enumerate(queries) if not is_unicode(query)]:
            raise UserError(
                f"query {broken[0]} has half of a character, \\ud800 to \\udfff alone; correct it"
            )
        if not isinstance(video, EncodedVideo):
            video = self.encode(video)
        tokens = []
        for first in range(0, len(queries), QUERIES_PER_BATCH):
            batch = queries[first : first + QUERIES_PER_BATCH]
            tokens += self._backbone.text(batch, self.recipe["text_layers"])
        texts = [
            to_float16(states.cpu().numpy(), query).transpose(1, 0, 2)
            for query, states in zip(queries, tokens, strict=True)
        ]
        return self.predict_encoded(video, queries, texts)

    def predict_encoded(
        self, video: EncodedVideo, queries: Sequence[str], texts: Sequence[NDArray[np.float16]]
    ) -> list[Prediction]:
        """As ``predict``, from queries that are encoded already.

        Args:
            video: An encoded video.
            queries: Sentences, which the predictions repeat.
            texts: Their tokens, each (K, L, Dt), as a feature file holds them.
        """
        length = min(self.recipe["max_clips"], video.features.shape[1])
        starts = part_starts(video.features.shape[1], length)
        clip_seconds = self.recipe["clip_seconds"]
        parts = [video.features[:, start : start + length] for start in starts]
        durations = [length * clip_seconds] * len(starts)
        durations[-1] = video.duration - starts[-1] * clip_seconds
        # A part's queries follow each other, so that batches share what depends on the part alone.
        samples = [
            _sample(Record(qid, video.vid, query, duration), part, text, clip_seconds)
            for part, duration in zip(parts, durations, strict=True)
            for qid, (query, text) in enumerate(zip(queries, texts, strict=True))
        ]
        moments: list[Tensor] = []
        scores: list[Tensor] = []
        saliency: list[NDArray[np.float64]] = []
        for first in range(0, len(samples), SAMPLES_PER_BATCH):
            result = self._run(samples[first : first + SAMPLES_PER_BATCH])
            moments += result[0]
            scores += result[1]
            saliency += result[2]
        offsets = torch.tensor(starts, dtype=torch.float64) * clip_seconds
        predictions = []
        for qid, query in enumerate(queries):
            of_query = slice(qid, None, len(queries))
            windows = decode_moments(
                (torch.stack(moments[of_query]) + offsets[:, None, None]).reshape(1, -1, 2),
                torch.stack(scores[of_query]).reshape(1, -1),
                torch.tensor([video.duration], dtype=torch.float64),
                self._decoding,
            )
            predictions.append(
                Prediction(
                    qid, video.vid, query, windows[0].numpy(), average_parts(saliency[of_query], starts)
                )
            )
        return predictions

    def _run(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor, list[NDArray[np.float64]]]:
        """Moments (B, M, 2) in seconds within their part, scores (B, M), and saliency of each sample."""
        batch = collate(samples).to(self._device)
        durations = torch.tensor([record.duration for record in batch.records], dtype=torch.float64)
        with torch.inference_mode():
            output = self._model(*batch.inputs())
        moments, scores = raw_moments(output, durations, self._decoding)
        # The model has seen nothing outside the part.
        moments = moments.clamp(min=0).minimum(durations[:, None, None])
        return moments, scores, clip_saliency(output, batch)


def _sample(
    record: Record, part: NDArray[np.float16], text: NDArray[np.float16], clip_seconds: float
) -> Sample:
    """One query and the (K, T, Dv) clips of a part of a video, as if they were all of it."""
    return Sample(
        record=record,
        video=part,
        text=text,
        num_clips=record.duration / clip_seconds,
        moments=np.zeros((0, 2), np.float32),
        saliency=np.zeros(part.shape[1], np.float32),
        positive_clip=-1,
    )


def _clip_spec(backbone: Backbone, recipe: dict[str, Any]) -> ClipSpec:
    """How the recipe's clips are cut.

    Raises:
        UserError: The recipe's features are those of another backbone.
    """
    from sdst.features.video import ClipSpec

    made_by = backbone.recipe()
    checkpoints.require_same("the backbone", made_by, {key: recipe[key] for key in made_by if key in recipe})
    return ClipSpec(
        recipe["clip_seconds"],
        backbone.vision_config.num_frames,
        backbone.vision_config.img_size,
        recipe["resize"],
        recipe["antialias"],
    )
