"""Predictions from stored features: the matching feature file, the records, and the model run over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from sdst.data.annotations import read_annotations
from sdst.data.collate import collate
from sdst.data.dataset import GroundingDataset
from sdst.data.sampler import EpochSampler
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.models.decoding import decode
from sdst.training import checkpoint
from sdst.types import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from sdst.config.schema import Decoding
    from sdst.types import Batch, Output, Prediction

NOT_COMPARED = ("pooling", "video_layers", "text_layers", "simulated", "max_clips", "fingerprint")
"""Recipe keys that select what is read from a feature file, or that do not say how features are made."""


def predict(
    model: nn.Module,
    records: Sequence[Record],
    store: FeatureStore,
    clip_seconds: float,
    decoding: Decoding,
    batch_size: int = 32,
    longer: str = "refuse",
) -> list[Prediction]:
    """One prediction per record, in the records' order. The batch size does not change the result."""
    predictions = []
    for batch, output in run_model(model, records, store, clip_seconds, batch_size, longer):
        predictions += decode(output, batch, decoding)
    by_qid = {prediction.qid: prediction for prediction in predictions}
    return [by_qid[record.qid] for record in records]


def run_model(
    model: nn.Module,
    records: Sequence[Record],
    store: FeatureStore,
    clip_seconds: float,
    batch_size: int = 32,
    longer: str = "refuse",
    **options: bool,
) -> Iterator[tuple[Batch, Output]]:
    """Yield batches of the records, from short to long videos, with the model's outputs, on the model's device.

    Args:
        model: The model, in evaluation mode.
        records: Annotations, labelled or not; every video and query must be in the store.
        store: Features made like those the model was trained on.
        clip_seconds: Length of a clip.
        batch_size: Queries per batch.
        longer: Whether to ``refuse`` or ``cut`` features that are longer than annotated.
        options: Keyword arguments for the model's ``forward``.
    """
    dataset = GroundingDataset(records, store, clip_seconds, seed=None, longer=longer)
    loader = DataLoader(
        dataset, batch_size=batch_size, sampler=EpochSampler(dataset.num_clips, seed=None), collate_fn=collate
    )
    device = next(model.parameters()).device
    for loaded in loader:
        batch = loaded.to(device)
        with torch.inference_mode():
            output = model(*batch.inputs(), **options)
        yield batch, output


def longer_features(data: Mapping[str, Any]) -> str:
    """What a trained model does with features that are longer than annotated, by the options of its data.

    A row that training would leave out is predicted, from the annotated part.
    """
    return "refuse" if data.get("longer", "refuse") == "refuse" else "cut"


def open_matching_store(path: str, recipe: dict[str, Any]) -> FeatureStore:
    """Open a feature file, checking that it was made like the features the checkpoint was trained on.

    Args:
        path: The feature file.
        recipe: The checkpoint's recipe.

    Raises:
        UserError: The file differs from the recipe, e.g. in backbone, clip length, pooling or layers; the message
            names the first difference.
    """
    store = FeatureStore(
        path,
        pooling=recipe["pooling"],
        video_layers=recipe["video_layers"],
        text_layers=recipe["text_layers"],
    )
    found = {
        "backbone": store.info.backbone,
        "clip_seconds": store.info.clip_seconds,
        "video_dim": store.video_dim,
        "text_dim": store.text_dim,
        **store.info.extra,
    }
    wanted = {key: value for key, value in recipe.items() if key not in NOT_COMPARED}
    checkpoint.require_same(path, found, wanted)
    return store


def choose_records(
    annotations: str | None, vid: str | None, qids: Sequence[str], store: FeatureStore
) -> list[Record]:
    """The records to predict.

    Args:
        annotations: Annotation file; None makes unlabelled records of ``vid`` and ``qids``.
        vid: The only video to keep; None keeps all.
        qids: The only queries to keep; empty keeps all.
        store: Feature file that must hold the videos and queries.

    Raises:
        UserError: An option is missing, or the annotations or the feature file lack a video or query.
    """
    if annotations is None:
        if vid is None or not qids:
            raise UserError("sdst predict: --features needs --annotations, or --vid and --qid")
        store.require([vid], qids)
        duration = store.num_clips(vid) * store.info.clip_seconds
        return [Record(qid, vid, query="", duration=duration) for qid in qids]
    records = read_annotations(annotations).records
    if qids:
        # Command-line qids are strings; files may have integers.
        by_qid = {str(record.qid): record for record in records}
        if absent := [qid for qid in qids if qid not in by_qid]:
            raise UserError(
                f"{annotations}: has no qid {absent[0]}; its qids are {', '.join(list(by_qid)[:3])}, ..."
            )
        records = [by_qid[qid] for qid in qids]
    if vid is not None:
        records = [record for record in records if record.vid == vid]
        if not records:
            raise UserError(f"{annotations}: has no such query about video {vid}; choose another --vid")
    store.require([record.vid for record in records], [record.qid for record in records])
    return records
