"""The half of ``sdst predict`` that needs a backbone: new queries about video files, or about a stored video."""

from __future__ import annotations

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


def check_arguments(args: Namespace) -> None:
    """Refuse what cannot work, before anything is loaded; every video is opened.

    Raises:
        UserError: A needed option is missing, a query is empty, a file cannot be read or a place not be written.
    """
    if not args.query:
        raise UserError("sdst predict: --video needs --query too")
    check_queries(args)
    check_backbone_options(args)
    for path in args.video:
        VideoReader(path, ClipSpec()).check()
    if args.clips is not None:
        try:
            args.clips.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{args.clips}: cannot be made a folder ({error.strerror}); choose another"
            ) from error


def check_queries(args: Namespace) -> None:
    """Refuse queries that are no sentences, before anything is loaded.

    Raises:
        UserError: One is empty or no text.
    """
    if not all(query.strip() for query in args.query):
        raise UserError("sdst predict: --query is empty; give a sentence")
    if not all(map(is_unicode, args.query)):
        raise UserError("sdst predict: --query is not text in the terminal's encoding; give UTF-8")


def check_backbone_options(args: Namespace) -> None:
    """Refuse half of what a backbone needs, before anything is loaded.

    Raises:
        UserError: One of two options is missing.
    """
    if bool(args.backbone_checkpoint) != bool(args.vocab):
        raise UserError("--backbone-checkpoint and --vocab belong together; give both or none")


def load_grounder(args: Namespace) -> Grounder:
    """The model and the backbone that the command line names, ready for video files.

    Raises:
        UserError: A file cannot be used, or the backbone is none of those that come with the package.
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
            f"{args.checkpoint}: was trained on simulated features, for which there is no backbone; train on "
            "extracted ones"
        )
    if grounder.spec is None:
        raise UserError(
            f"{args.checkpoint}: was trained on features of {grounder.recipe['backbone']}, whose weights do not come "
            "with the package; give --backbone-checkpoint and --vocab"
        )
    return grounder


@dataclass(frozen=True)
class VideoAnswers:
    """What became of the videos.

    Attributes:
        predictions: One per video and query; ``qid`` counts them from 0.
        records: What was asked, one per prediction.
        thumbnails: Of each prediction's video, if they were asked for.
        damaged: Why videos are refused, one line each.
    """

    predictions: list[Prediction] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    thumbnails: list[list[Thumbnail]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def predict_videos(args: Namespace, grounder: Grounder) -> VideoAnswers:
    """Encode each video, ask all queries, and cut the best moments out if that is wanted.

    A video whose damage only decoding shows is left out.
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
    """Ask all queries about a video of a feature file, which tells its length in whole clips."""
    features = store.video(vid)
    video = EncodedVideo(vid, features.shape[1] * store.info.clip_seconds, features)
    predictions = grounder.predict(video, queries)
    records = [Record(answer.qid, vid, answer.query, video.duration) for answer in predictions]
    return VideoAnswers(predictions, records)


def _encode(grounder: Grounder, path: Path, progress: Progress) -> EncodedVideo:
    task = progress.add_task(f"{path.stem}: clips", total=expected_clips(grounder, path))
    return grounder.encode(path, lambda count: progress.advance(task, count))


def expected_clips(grounder: Grounder, path: Path) -> int | None:
    """How many clips a video will have; None where the file does not tell its length.

    Raises:
        VideoError: It is no video.
    """
    assert grounder.spec is not None  # load_grounder asked for a backbone
    reader = VideoReader(path, grounder.spec)
    reader.check()
    seconds = reader.duration
    return None if seconds is None else count_clips(seconds, grounder.spec.clip_seconds)
