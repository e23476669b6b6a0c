"""``data.cache=device``: features in the memory of the training device, from which batches are made there by index."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from sdst.data.collate import number_videos, pad, round_up
from sdst.data.packed import GB, Table, available_memory, fill, require_room, tables
from sdst.types import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from sdst.data.dataset import GroundingDataset
    from sdst.data.store import FeatureStore

logger = logging.getLogger(__name__)

OPTION = "data.cache=device"


class DeviceFeatures:
    """All features of a store on a device.

    Args:
        store: The features.
        device: The device.

    Attributes:
        device: The device.
        video: The table of the videos, and their (R, Dv) float16 rows.
        text: The same of the queries, (R, Dt).

    Raises:
        UserError: They do not fit, or are damaged.
    """

    def __init__(self, store: FeatureStore, device: torch.device) -> None:
        self.device = device
        parts = tables(store)
        needed = sum(table.num_bytes for table in parts)
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
        require_room(OPTION, needed, free, f"device {device}", "use data.cache=memory")
        logger.info("%s: reading %.2f GB of features into the memory of %s", OPTION, needed / GB, device)
        self.video, self.text = (
            (table, torch.empty(table.rows, table.width, dtype=torch.float16, device=device))
            for table in parts
        )
        fill(store, self.video, self.text, OPTION)


class DeviceBatches(Dataset[tuple[int, int]]):
    """Batches on the device, equal to those that ``collate`` makes of a dataset's samples.

    An item is only its key (pass, index); ``collate`` makes a batch from several keys. For each batch, one small tensor
    with the chosen samples goes to the device, and no step waits for it.

    Args:
        dataset: The samples.
        features: Returns the features on the device; called for the first batch.
        pad_to: See :func:`sdst.data.collate.collate`.
    """

    def __init__(
        self, dataset: GroundingDataset, features: Callable[[], DeviceFeatures], pad_to: int
    ) -> None:
        self.dataset = dataset
        self._features = features
        self._pad_to = pad_to
        self._samples: _Samples | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key

    def collate(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """The batch of some samples."""
        if self._samples is None:
            self._samples = _Samples(self.dataset, self._features(), self._pad_to)
        return self._samples.batch(keys)


class _Samples:
    """What all samples of a dataset have, on the device and padded; the random draws are made batch by batch."""

    def __init__(self, dataset: GroundingDataset, features: DeviceFeatures, pad_to: int) -> None:
        self._dataset = dataset
        self._pad_to = pad_to
        self._device = features.device
        self._targets = [dataset.target(index) for index in range(len(dataset))]
        (video, self._video_rows), (text, self._text_rows) = features.video, features.text
        qids = [str(record.qid) for record in dataset.records]
        self._num_tokens = [text.places[qid][1] for qid in qids]
        self._videos = self._places(video, [record.vid for record in dataset.records], dataset.num_clips)
        self._texts = self._places(text, qids, self._num_tokens)
        self._num_clips = torch.tensor(dataset.whole_clips, dtype=torch.float32, device=self._device)
        moments, moment_mask = pad([target.moments for target in self._targets], axis=0, pad_to=pad_to)
        saliency, _ = pad([target.saliency for target in self._targets], axis=0, pad_to=pad_to)
        self._moments, self._moment_mask = moments.to(self._device), moment_mask.to(self._device)
        self._saliency = saliency.to(self._device)

    def batch(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """The batch of some keys."""
        indices = [index for _, index in keys]
        records = [self._dataset.records[index] for index in indices]
        draws = [self._dataset.draw(key, self._targets[key[1]]) for key in keys]
        numbers = number_videos(records)
        chosen = torch.tensor([indices, numbers, *zip(*draws, strict=True)])
        if self._device.type == "cuda":
            chosen = chosen.pin_memory()  # otherwise the copy would wait for the device
        index, video_index, positive, negative = chosen.to(self._device, non_blocking=True).unbind()
        clips, tokens = (
            round_up(max(lengths[index] for index in indices), self._pad_to)
            for lengths in (self._dataset.num_clips, self._num_tokens)
        )
        moments = round_up(max(len(self._targets[index].moments) for index in indices), self._pad_to)
        # As in collate: a batch about one video has it once.
        used = [self._dataset.num_clips[index] for index in indices]
        is_one = len(set(zip(numbers, used, strict=True))) == 1
        video, video_mask = self._gather(
            self._video_rows, self._videos[index[:1] if is_one else index], clips
        )
        text, text_mask = self._gather(self._text_rows, self._texts[index], tokens)
        return Batch(
            records=records,
            video=video,
            video_mask=video_mask.expand(len(keys), -1),
            text=text,
            text_mask=text_mask,
            num_clips=self._num_clips[index],
            video_index=video_index,
            moments=self._moments[index, :moments],
            moment_mask=self._moment_mask[index, :moments],
            saliency=self._saliency[index, :clips],
            positive_clip=positive,
            negative_clip=negative,
        )

    def _places(self, table: Table, names: Sequence[str], used: Sequence[int]) -> Tensor:
        """(N, K + 1) the first row of each sample's levels, and how many rows of each the sample uses."""
        rows = []
        for name, count in zip(names, used, strict=True):
            first, length = table.places[name]
            rows.append([*(first + slot * length for slot in table.slots), count])
        return torch.tensor(rows, device=self._device)

    def _gather(self, rows: Tensor, places: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Features (B, K, longest, D) at places (B, K + 1), zero where padded, and the (B, longest) mask."""
        first, used = places[:, :-1, None], places[:, -1:]
        offset = torch.arange(longest, device=self._device)
        mask = offset < used
        # Indexing rows would do the same forty times as slowly on a CPU.
        return F.embedding(torch.where(mask[:, None], first + offset, 0), rows), mask
