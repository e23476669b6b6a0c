"""Annotation files and a feature store, served as batches. Every data set is a configuration of this class."""

from __future__ import annotations

import hashlib
import logging
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from sdst.config.schema import Levels
from sdst.data.annotations import of_domain, read_annotations
from sdst.data.collate import collate
from sdst.data.dataset import GroundingDataset
from sdst.data.fingerprint import fingerprint
from sdst.data.on_device import DeviceBatches, DeviceFeatures
from sdst.data.rows import rows_with_features, training_rows
from sdst.data.sampler import EpochSampler
from sdst.data.shared import share
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.files.orphans import begin_worker

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

LONGER = {"refuse": "refused", "cut": "cut", "leave_out": "left out"}
"""What can be done with features that are longer than annotated -> the word for it."""
MISSING = ("refuse", "leave_out")
"""What can be done with rows whose video or query has no features."""
CACHES = ("none", "memory", "device")
"""Where features can be held."""


class GroundingDataModule(L.LightningDataModule):
    """Train, validation and test splits of one data set.

    Args:
        name: Evaluation protocol, a key of ``sdst.metrics.evaluation.PROTOCOLS``: ``qvhighlights``, ``charades``, ...
        annotations: Split name -> JSON lines file; None for a split that the data set does not have.
        features: The feature store (layout: ``sdst.data.store``).
        pooling: Pooling of the features: ``adaptive``, ``avg`` or ``cls`` (Tab. 3).
        clip_seconds: Clip length in seconds; must equal the store's.
        min_duration: Duration in seconds below which a video is left out of training (App. A).
        batch_size: Queries per step of a process.
        repeat: Passes over the training split per epoch, each in an order of its own.
        num_workers: Number of loader processes; ``cache=device`` needs none and starts none.
        cache: Where the features are held: ``none`` reads them from the file for each batch, ``memory`` holds them once
            for all jobs of a machine, ``device`` in the memory of the training device, where batches are made. The
            batches are the same.
        pad_to: Numbers of clips, tokens and moments of a batch are padded to multiples of it, so that there are few
            shapes to compile.
        levels: Choice of the backbone layers.
        seed: Seed of shuffling and of the positive clips.
        domain: Domain whose rows are read; None for all. TVSum and YouTube Highlights train a model per domain.
        validation_split: Split that validation evaluates and that chooses the best checkpoint.
        longer: What to do in every split if features are more than a clip longer than annotated: ``refuse`` them,
            ``cut`` them to the annotation, whose times count from the start, or ``leave_out`` their rows.
        missing: What to do with rows whose video or query has no features: ``refuse`` or ``leave_out``.
    """

    def __init__(
        self,
        name: str,
        annotations: Mapping[str, str | None],
        features: str,
        *,
        pooling: str = "adaptive",
        clip_seconds: float = 2.0,
        min_duration: float = 5.0,
        batch_size: int = 32,
        repeat: int = 1,
        num_workers: int = 0,
        cache: str = "none",
        pad_to: int = 1,
        domain: str | None = None,
        levels: Levels | None = None,
        seed: int = 0,
        validation_split: str = "val",
        longer: str = "refuse",
        missing: str = "refuse",
    ) -> None:
        super().__init__()
        for option, value, lowest in (
            ("batch_size", batch_size, 1),
            ("repeat", repeat, 1),
            ("num_workers", num_workers, 0),
            ("pad_to", pad_to, 1),
        ):
            if value < lowest:
                raise UserError(f"data.{option}: {value} must be at least {lowest}")
        if longer not in LONGER:
            raise UserError(f"data.longer must be one of {', '.join(LONGER)}, got {longer!r}")
        if missing not in MISSING:
            raise UserError(f"data.missing must be one of {', '.join(MISSING)}, got {missing!r}")
        if cache not in CACHES:
            raise UserError(f"data.cache must be one of {', '.join(CACHES)}, got {cache!r}")
        for split, path in annotations.items():
            if not isinstance(split, str) or not isinstance(path, str | None):
                raise UserError(f"data.annotations.{split}: {path!r} must be the path of a file, or null")
        self.dataset = name
        self.paths = {split: path for split, path in annotations.items() if path is not None}
        self.min_duration = min_duration
        self.batch_size = batch_size
        self.repeat = repeat
        self.num_workers = num_workers
        self.cache = cache
        self.pad_to = pad_to
        self._on_device: DeviceFeatures | None = None
        self.domain = domain
        self.clip_seconds = clip_seconds
        self.seed = seed
        self.validation_split = validation_split
        self.longer = longer
        self.missing = missing
        self._without_features: dict[str, int] = {}
        self._position = {"epoch": 0, "batches": 0}
        self.levels = levels or Levels()
        self.datasets: dict[str, GroundingDataset] = {}
        info = FeatureStore(features, pooling=pooling).info
        if info.clip_seconds != clip_seconds:
            raise UserError(
                f"{features}: made with clips of {info.clip_seconds:g} s, but data.clip_seconds is "
                f"{clip_seconds:g}; set data.clip_seconds={info.clip_seconds:g} or extract again"
            )
        if len(info.video_layers) == 1 < self.levels.count and self.levels.source == "intermediate":
            logger.warning(
                "%s: holds one layer, which stands for all %d levels, as with levels.source=last",
                features,
                self.levels.count,
            )
        self.store = FeatureStore(
            features,
            pooling=pooling,
            video_layers=self.levels.video_layers(info.video_layers),
            text_layers=self.levels.text_layers(info.text_layers),
        )

    @property
    def recipe(self) -> dict[str, Any]:
        """How the features were made, as plain values. A checkpoint stores it, and prediction compares it.

        It also holds ``max_clips``, the length of the longest training video, because longer videos are predicted in
        parts, and ``fingerprint``, by which a resumed run recognises its features.
        """
        info = self.store.info
        return {
            "backbone": info.backbone,
            "pooling": self.store.pooling,
            "video_layers": self.levels.video_layers(info.video_layers),
            "text_layers": self.levels.text_layers(info.text_layers),
            "video_dim": self.store.video_dim,
            "text_dim": self.store.text_dim,
            "clip_seconds": info.clip_seconds,
            "simulated": info.simulated,
            "max_clips": self.load("train").max_clips,
            "fingerprint": self.fingerprint,
            **info.extra,
        }

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the features as they are now."""
        return fingerprint(self.store.info.path, self.store.pooling)

    def warn_about_leaks(self) -> None:
        """Warn about every split that shares videos with the training split."""
        trained = {record.vid for record in self.load("train").records}
        for split in self.paths:
            shared = sorted(trained & {record.vid for record in self.load(split).records})
            if split != "train" and shared:
                logger.warning(
                    "%s shares %d videos with train (%s): its metrics are not those of unseen videos",
                    split,
                    len(shared),
                    ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else ""),
                )

    def load(self, split: str) -> GroundingDataset:
        """Read and check one split: annotations, their repairs, the presence and length of all features."""
        if split not in self.datasets:
            if split not in self.paths:
                raise UserError(
                    f"data.annotations.{split}: no such split; there are {', '.join(self.paths) or 'none'}"
                )
            annotations = read_annotations(self.paths[split])
            records = of_domain(annotations.records, self.domain, self.paths[split])
            notes = [str(annotations.repairs)] if annotations.repairs else []
            if split == "train":
                records, left_out = training_rows(records, self.min_duration, self.paths[split])
                notes += left_out
            stored = rows_with_features(records, self.store, self.missing)
            if without := len(records) - len(stored):
                notes.append(f"left out because their features are missing: {without}")
                self._without_features[split] = without
            seed = self.seed if split == "train" else None
            dataset = GroundingDataset(stored, self.store, self.clip_seconds, seed, self.longer)
            records = list(dataset.records)
            if dataset.longer:
                notes.append(f"{LONGER[self.longer]} because their features are longer: {dataset.longer}")
            for kind, count in dataset.lengths.items():
                if count:
                    notes.append(f"{kind} by one clip: {count}")
            logger.info(
                "%s: %d queries on %d videos%s",
                split,
                len(records),
                len({record.vid for record in records}),
                "".join(f"; {note}" for note in notes),
            )
            self.datasets[split] = dataset
        return self.datasets[split]

    def missing_features(self) -> dict[str, int]:
        """Split -> number of rows that were left out because their features are missing."""
        return dict(self._without_features)

    def longer_features(self) -> dict[str, dict[str, int]]:
        """Split -> what was done to rows whose features are longer than annotated, and to how many."""
        return {
            split: {LONGER[self.longer]: dataset.longer}
            for split, dataset in self.datasets.items()
            if dataset.longer
        }

    def hold(self, device: torch.device) -> None:
        """Hold the features where ``data.cache`` says; further calls do nothing.

        Args:
            device: The training device.

        Raises:
            UserError: They do not fit there, or are damaged.
        """
        if self.cache == "memory" and self.store.shared is None:
            self.store.shared = share(self.store)
        elif self.cache == "device" and self._on_device is None:
            self._on_device = DeviceFeatures(self.store, device)

    def _device_features(self) -> DeviceFeatures:
        self.hold(self._device)
        assert self._on_device is not None
        return self._on_device

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def loader(self, split: str) -> DataLoader[Any]:
        """Batches of one split: ``train`` shuffled, the others from short to long videos."""
        dataset = self.load(split)
        sampler = (
            EpochSampler(dataset.num_clips, self.seed, self.repeat)
            if split == "train"
            else EpochSampler(dataset.num_clips, seed=None)
        )
        if self.cache == "device":
            batches = DeviceBatches(dataset, self._device_features, self.pad_to)
            return DataLoader(
                batches, batch_size=self.batch_size, sampler=sampler, collate_fn=batches.collate
            )
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=partial(collate, pad_to=self.pad_to),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=begin_worker,
        )

    def setup(self, stage: str) -> None:
        """Read and check the splits that a stage of the trainer needs, and hold the features."""
        needed = {
            "fit": ("train", self.validation_split),
            "validate": (self.validation_split,),
            "test": ("test",),
            "predict": (self._prediction_split,),
        }
        for split in needed[stage]:
            self.load(split)
        self.hold(self._device)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training split, from where a resumed run stopped within its epoch."""
        loader = self.loader("train")
        sampler: Any = loader.sampler
        sampler.resume(self._position["epoch"], self._position["batches"] * self.batch_size)
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the split that chooses the best checkpoint; some data sets have no ``val``."""
        return self.loader(self.validation_split)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test split."""
        return self.loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of the test split, or of the validation split where there is no test split."""
        return self.loader(self._prediction_split)

    @property
    def _prediction_split(self) -> str:
        return "test" if "test" in self.paths else self.validation_split

    @cached_property
    def annotation_hashes(self) -> dict[str, str]:
        """Split -> SHA-256 of its annotation file at the first call; files that a script lacks are left out."""
        return {
            split: hashlib.sha256(Path(path).read_bytes()).hexdigest()
            for split, path in self.paths.items()
            if Path(path).is_file()
        }

    def state_dict(self) -> dict[str, Any]:
        """The epoch in which a resumed run continues, how many of its batches are done, and what the files held."""
        epoch, batches = self._position["epoch"], self._position["batches"]
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress
            epoch, batches = self.trainer.current_epoch, progress.current.ready
            if progress.is_last_batch:
                epoch, batches = epoch + 1, 0
        return {"epoch": epoch, "batches": batches, "annotations": self.annotation_hashes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's place; call before the training loader is made, as the trainer does.

        Raises:
            UserError: An annotation file has changed, so the run would go on with other samples, or choose the best
                epoch among epochs that were scored against other moments. Older checkpoints hold no
                hashes and are not checked.
        """
        for split, begun in state_dict.get("annotations", {}).items():
            if self.annotation_hashes.get(split, begun) != begun:
                raise UserError(
                    f"{self.paths[split]}: the {split} annotations have changed since the run was begun; put that "
                    "file back, or start a new run"
                )
        self._position = {"epoch": state_dict["epoch"], "batches": state_dict["batches"]}
