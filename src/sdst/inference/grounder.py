"""The Python interface: load a trained model with its backbone and query video files.

::

    grounder = sdst.load("best.ckpt", "internvideo2-1b.pt", vocab="vocab.txt")
    video = grounder.encode("holiday.mp4")
    for prediction in grounder.predict(video, ["a dog jumps into the water", "people eat ice cream"]):
        print(prediction.query, prediction.windows[0])

Features are made as ``sdst extract`` makes them and rounded to float16 as in a feature file. A video no longer
than the longest training video is predicted in one piece, exactly as from stored features. A longer video is
predicted in overlapping parts of that length (``sdst.inference.sliding``): the moments of all parts go through one
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
from sdst.data.words import words_of
from sdst.errors import UserError
from sdst.features.backbone.backbone import Backbone, load_backbone, usable_device
from sdst.features.backbone.sizes import SHIPPED
from sdst.features.encode import QUERIES_PER_BATCH, encode_clips
from sdst.inference.sliding import average_parts, part_starts
from sdst.models.decoding import clip_saliency, decode_moments, raw_moments
from sdst.training import checkpoint as checkpoints
from sdst.training.run_folder import find_checkpoint
from sdst.training.shared_model import read_words
from sdst.types import Prediction, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from sdst.features.video import ClipSpec

CLIPS_PER_BATCH = 16
SAMPLES_PER_BATCH = 32
NO_BACKBONE = "no backbone is loaded; give sdst.load the backbone's checkpoint and vocab.txt"


def load(
    checkpoint: str | Path,
    backbone: Backbone | str | Path | None = None,
    *,
    backbone_config: str | Path = "internvideo2-1b",
    vocab: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Grounder:
    """Load a trained model, ready for queries about videos.

    Args:
        checkpoint: A run folder, its ``best.ckpt`` or ``last.ckpt``, or a model of ``sdst push``: a folder, a zip
            file, or ``hf://user/name`` for one of the Hugging Face Hub, optionally with ``@revision``.
        backbone: The backbone's official checkpoint (``.pt`` or ``.safetensors``), or a loaded backbone, which
            several models may share. With None, the backbone of the training features is loaded if it comes with
            the package; otherwise only ``Grounder.predict_encoded`` works.
        backbone_config: The backbone's preset or JSON file; not used for a loaded backbone.
        vocab: The backbone's ``vocab.txt``; not used for a loaded backbone.
        device: Device of model and backbone (default: the first GPU, or the CPU). A loaded backbone stays on its
            device.

    Raises:
        UserError: A file cannot be used, or the backbone is not the one that made the training features.
    """
    where = usable_device(device)
    checkpoint = find_checkpoint(checkpoint)
    model, config, recipe = checkpoints.load(checkpoint)
    if isinstance(backbone, str | Path):
        backbone = load_backbone(backbone, backbone_config, vocab=vocab, device=where)
    elif backbone is None and recipe["backbone"] in SHIPPED:
        backbone = load_backbone(None, recipe["backbone"], device=where)
    decoding, words = Decoding(**config["decode"]), read_words(checkpoint)
    return Grounder(model.to(where), decoding, recipe, backbone, where, words)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedVideo:
    """The features of one video, reusable for any number of queries.

    Attributes:
        vid: Name of the video; for a file, its name without extension.
        duration: Length in seconds.
        features: (K, T, Dv) float16 features, as in a feature file.
    """

    vid: str
    duration: float
    features: NDArray[np.float16]

    def __repr__(self) -> str:
        """One line; the array appears as its shape."""
        return f"EncodedVideo(vid={self.vid!r}, duration={self.duration:g}, features {self.features.shape})"


class Grounder:
    """A trained model and the backbone of its features; see ``load``.

    Attributes:
        recipe: How the training features were made.
        spec: How the recipe cuts a video file into clips; None without a backbone.
        words: Words of the training queries; None if the model does not list them, and a run's checkpoint does not.
    """

    def __init__(
        self,
        model: nn.Module,
        decoding: Decoding,
        recipe: dict[str, Any],
        backbone: Backbone | None,
        device: torch.device,
        words: frozenset[str] | None = None,
    ) -> None:
        self.recipe = recipe
        self.spec = None if backbone is None else _clip_spec(backbone, recipe)
        self.words = words
        self._model = model
        self._decoding = decoding
        self._backbone = backbone
        self._device = device

    def __repr__(self) -> str:
        loaded = "" if self._backbone is not None else ", not loaded"
        return (
            f"Grounder({type(self._model).__name__} on {self._device}, {len(self.recipe['video_layers'])} levels, "
            f"backbone {self.recipe['backbone']}{loaded})"
        )

    def unseen_words(self, queries: Sequence[str]) -> list[str]:
        """Words of the queries, in lower case, that no training query has or that the backbone's vocabulary lacks.

        A run's checkpoint does not list the words of its training. Then only those that the vocabulary lacks are found:
        BERT's has nearly every word, the small world's only what its backbone was trained on.
        """
        unseen = [word for word in words_of(queries) if self.words is not None and word not in self.words]
        if self._backbone is not None:
            unseen += [word for query in queries for word in self._backbone.unknown_words(query)]
        return list(dict.fromkeys(unseen))

    def encode(
        self, video: str | Path, advance: Callable[[int], object] = lambda count: None
    ) -> EncodedVideo:
        """Decode and encode a video, once for all queries.

        Args:
            video: The video file.
            advance: Function called with the number of clips after every batch.

        Raises:
            UserError: No backbone is loaded.
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
        """Moments and saliency of each query, in the order of the queries; ``qid`` is the query's index.

        Args:
            video: An encoded video, or a video file to encode.
            queries: Sentences.

        Raises:
            UserError: A query is empty or not valid text, no backbone is loaded, or the file cannot be used.
        """
        if isinstance(queries, str):
            raise TypeError("queries must be a list of sentences, not one string")
        if self._backbone is None:
            raise UserError(NO_BACKBONE)
        if empty := [index for index, query in enumerate(queries) if not query.strip()]:
            raise UserError(f"query {empty[0]} is empty; give a sentence")
        if broken := [index for index, query in enumerate(queries) if not is_unicode(query)]:
            raise UserError(
                f"query {broken[0]} holds a lone surrogate (\\ud800 to \\udfff), which is not a character; correct it"
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
        """Like ``predict``, but from encoded queries.

        Args:
            video: An encoded video.
            queries: Sentences, copied into the predictions.
            texts: One (K, L, Dt) array of token features per query, as in a feature file.
        """
        length = min(self.recipe["max_clips"], video.features.shape[1])
        starts = part_starts(video.features.shape[1], length)
        clip_seconds = self.recipe["clip_seconds"]
        parts = [video.features[:, start : start + length] for start in starts]
        durations = [length * clip_seconds] * len(starts)
        durations[-1] = video.duration - starts[-1] * clip_seconds
        # All queries of a part stand together, so that a batch computes only once what depends on the part alone.
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
        """Moments (B, M, 2) in seconds from the part's start, scores (B, M), and one saliency array per sample."""
        batch = collate(samples).to(self._device)
        durations = torch.tensor([record.duration for record in batch.records], dtype=torch.float64)
        with torch.inference_mode():
            output = self._model(*batch.inputs())
        moments, scores = raw_moments(output, durations, self._decoding)
        # Clamped to the part, because the model saw nothing outside it.
        moments = moments.clamp(min=0).minimum(durations[:, None, None])
        return moments, scores, clip_saliency(output, batch)


def _sample(
    record: Record, part: NDArray[np.float16], text: NDArray[np.float16], clip_seconds: float
) -> Sample:
    """One query with the (K, T, Dv) clips of a part, treated as a whole video."""
    return Sample(
        record=record,
        video=part,
        text=text,
        num_clips=record.duration / clip_seconds,
        moments=np.zeros((0, 2), np.float32),
        saliency=np.zeros(part.shape[1], np.float32),
        positive_clip=-1,
        negative_clip=-1,
    )


def _clip_spec(backbone: Backbone, recipe: dict[str, Any]) -> ClipSpec:
    """How the recipe cuts a video into clips.

    Raises:
        UserError: The recipe's features were made by another backbone.
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
