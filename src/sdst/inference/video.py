"""Predictions that need a backbone: new queries about video files or about a stored video."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.console.progress import progress_bars
from sdst.data.jsonlines import is_unicode
from sdst.errors import UserError
from sdst.features.video import ClipSpec, VideoError, VideoReader
from sdst.inference.clips import cut_moments, thumbnails
from sdst.inference.grounder import EncodedVideo, load
from sdst.plotting.predictions import THUMBNAIL_ROW
from sdst.spans import count_clips
from sdst.types import Record

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from rich.progress import Progress

    from sdst.data.store import FeatureStore
    from sdst.inference.grounder import Grounder
    from sdst.plotting.predictions import Thumbnail
    from sdst.types import Prediction

logger = logging.getLogger(__name__)

MOST_NAMED = 10
"""Most words that a warning names."""


def check_arguments(args: Namespace) -> None:
    """Check the options of ``--video`` before anything is loaded; every video file is opened.

    Raises:
        UserError: An option is missing, a query is empty, a video cannot be read or the folder of ``--clips`` cannot
            be created.
    """
    if not args.query:
        raise UserError("sdst predict: --video needs --query")
    check_queries(args)
    check_backbone_options(args)
    for path in args.video:
        VideoReader(path, ClipSpec()).check()
    if args.clips is not None:
        try:
            args.clips.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{args.clips}: cannot create this folder ({error.strerror}); choose another path"
            ) from error


def check_queries(args: Namespace) -> None:
    """Check the queries before anything is loaded.

    Raises:
        UserError: A query is empty or is not valid text.
    """
    if not all(query.strip() for query in args.query):
        raise UserError("sdst predict: --query is empty; give a sentence")
    if not all(map(is_unicode, args.query)):
        raise UserError("sdst predict: --query is not valid text in the terminal's encoding; use UTF-8")


def check_backbone_options(args: Namespace) -> None:
    """Check that both backbone files are given, or neither, before anything is loaded.

    Raises:
        UserError: Only one is given.
    """
    if bool(args.backbone_checkpoint) != bool(args.vocab):
        raise UserError("--backbone-checkpoint and --vocab go together; give both or neither")


def unseen_note(words: Sequence[str]) -> str:
    """One line about words of the queries that no training query has."""
    shown = ", ".join(words[:MOST_NAMED]) + ", ..." * (len(words) > MOST_NAMED)
    return f"no query of the training has the words: {shown}; do not rely on moments found for them"


def warn_about_words(grounder: Grounder, queries: Sequence[str]) -> None:
    """Warn about words that the model was not trained on."""
    if words := grounder.unseen_words(queries):
        logger.warning("%s", unseen_note(words))


def load_grounder(args: Namespace) -> Grounder:
    """Load the model and the backbone that the options name.

    Raises:
        UserError: A file cannot be used, or no backbone is given and none of the shipped ones fits the model.
    """
    with progress_bars() as progress:
        progress.add_task("loading the backbone", total=None)
        grounder = load(
            args.checkpoint,
            args.backbone_checkpoint,
            backbone_config=args.backbone_config,
            vocab=args.vocab,
            device=args.device,
        )
    if grounder.spec is None and grounder.recipe["simulated"]:
        raise UserError(
            f"{args.checkpoint}: was trained on simulated features, which no backbone can make; train on "
            "extracted features"
        )
    if grounder.spec is None:
        raise UserError(
            f"{args.checkpoint}: was trained on features of {grounder.recipe['backbone']}, whose weights do not come "
            "with the package; give --backbone-checkpoint and --vocab"
        )
    return grounder


@dataclass(frozen=True)
class VideoAnswers:
    """Predictions for videos, and the videos that could not be read.

    Attributes:
        predictions: One per video and query; ``qid`` numbers them from 0.
        records: One unlabelled record per prediction.
        thumbnails: Thumbnails of each prediction's video; empty lists without ``--plot``.
        damaged: One line per damaged video, with the reason.
    """

    predictions: list[Prediction] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    thumbnails: list[list[Thumbnail]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def predict_videos(args: Namespace, grounder: Grounder) -> VideoAnswers:
    """Encode each video, predict all queries, and cut out the best moments if ``--clips`` is given.

    A video that turns out to be damaged while it is decoded is left out and listed in ``damaged``.
    """
    answers = VideoAnswers()
    with progress_bars() as progress:
        for path in args.video:
            try:
                video = _encode(grounder, path, progress)
            except VideoError as error:
                answers.damaged.append(str(error))
                continue
            pictures = thumbnails(path, video.duration, THUMBNAIL_ROW) if args.plot else []
            predictions = [
                replace(prediction, qid=len(answers.predictions) + index)
                for index, prediction in enumerate(grounder.predict(video, args.query))
            ]
            for prediction in predictions:
                answers.records.append(Record(prediction.qid, video.vid, prediction.query, video.duration))
                answers.thumbnails.append(pictures)
            answers.predictions.extend(predictions)
            if args.clips is not None:
                for prediction in progress.track(predictions, description=f"{video.vid}: cutting"):
                    cut_moments(prediction, path, args.clips, args.clips_per_query)
    return answers


def predict_stored_video(
    grounder: Grounder, store: FeatureStore, vid: str, queries: Sequence[str]
) -> VideoAnswers:
    """Predict all queries for a video of a feature file; its duration is its number of clips times their length."""
    features = store.video(vid)
    video = EncodedVideo(vid, features.shape[1] * store.info.clip_seconds, features)
    predictions = grounder.predict(video, queries)
    records = [Record(answer.qid, vid, answer.query, video.duration) for answer in predictions]
    return VideoAnswers(predictions, records)


def _encode(grounder: Grounder, path: Path, progress: Progress) -> EncodedVideo:
    task = progress.add_task(f"{path.stem}: clips", total=expected_clips(grounder, path))
    return grounder.encode(path, lambda count: progress.advance(task, count))


def expected_clips(grounder: Grounder, path: Path) -> int | None:
    """Number of clips of a video file; None if its headers do not state its duration.

    Raises:
        VideoError: The file cannot be read as a video.
    """
    assert grounder.spec is not None  # load_grounder refuses a grounder without a backbone
    reader = VideoReader(path, grounder.spec)
    reader.check()
    seconds = reader.duration
    return None if seconds is None else count_clips(seconds, grounder.spec.clip_seconds)
