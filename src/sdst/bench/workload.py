"""The benchmarked workload: model, losses and optimizer of a configuration, and a random batch of a given shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from omegaconf import OmegaConf

from sdst.config.checks import check_options, precision, resolve_auto_options
from sdst.config.compose import compose
from sdst.config.schema import TrainConfig
from sdst.features.allocator import keep_freed_memory
from sdst.models.decoding import decode
from sdst.training.module import make_module
from sdst.training.optim import make_optimizer
from sdst.types import Batch, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdst.types import Output, Prediction

CLIP_SECONDS = 2.0
MOST_MOMENTS = 3
"""Maximum number of true moments of a random sample; the minimum is one."""
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""``trainer.precision`` -> data type of matrix products; any other precision uses float32."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a batch; the defaults are those of QVHighlights with the paper's backbone.

    Attributes:
        batch: Number of queries B.
        clips: Number of clips T of the longest video.
        tokens: Number of tokens L of the longest query.
        queries: Number of moment queries M, if the model has any.
        levels: Number of levels K.
        video_dim: Width Dv of video features.
        text_dim: Width Dt of text features.
    """

    batch: int = 32
    clips: int = 75
    tokens: int = 16
    queries: int = 30
    levels: int = 4
    video_dim: int = 768
    text_dim: int = 1024


class Workload:
    """Training steps and predictions of a configuration, on the GPU if it would train there.

    Args:
        overrides: Overrides of ``sdst train``: ``model``, ``loss``, ``trainer.precision``, ``compile`` and others.
        shape: Sizes of the batch.

    Attributes:
        module: Model and losses.
        batch: Random batch, the same for every configuration.
        device: Device of module and batch.
        dtype: Data type of matrix products.
    """

    def __init__(self, overrides: Sequence[str], shape: Shape) -> None:
        keep_freed_memory()  # as training does
        config = compose([*overrides, f"levels.count={shape.levels}"])
        if "num_queries" in config.model:
            config.model.num_queries = shape.queries
        config.run_dir = "none"  # nothing is written, and the default would contain the current time
        OmegaConf.resolve(config)
        check_options(config)
        resolve_auto_options(config)
        options = OmegaConf.to_object(config)
        assert isinstance(options, TrainConfig)

        on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.dtype = AUTOCAST.get(precision(config.trainer), torch.float32)
        self.batch = random_batch(shape).to(self.device)
        torch.manual_seed(config.seed)
        widths = {"video_dim": shape.video_dim, "text_dim": shape.text_dim}
        self.module = make_module(config, widths).to(self.device)
        self._decoding = options.decode
        self._clip = config.trainer.gradient_clip_val
        self._optimizer, _ = make_optimizer(options.optim, self.module.parameters(), steps_per_epoch=1)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def loss(self) -> Tensor:
        """The weighted loss of the batch."""
        total: Tensor = self.module.criterion(self.forward(), self.batch)[0]
        return total

    def forward(self) -> Output:
        """The model's output for the batch."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output: Output = self.module(self.batch)
        return output

    def step(self) -> None:
        """Forward, loss, and the update."""
        self.update(self.loss())

    def update(self, loss: Tensor) -> None:
        """Backward, gradient clipping and the optimizer's update."""
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimizer)
        if self._clip:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self.wait()

    @torch.inference_mode()
    def infer(self) -> Output:
        """The forward pass of prediction; the module must be in evaluation mode."""
        output = self.forward()
        self.wait()
        return output

    @torch.inference_mode()
    def decode(self, output: Output) -> list[Prediction]:
        """Moments and saliency from an output, soft-NMS included."""
        return decode(output, self.batch, self._decoding)

    def wait(self) -> None:
        """Wait for the GPU, so that its work counts in the step that started it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def random_batch(shape: Shape) -> Batch:
    """A batch of random features and labels: videos and queries of half to full length, one to three moments."""
    rng = np.random.default_rng(0)
    clips, tokens = (
        np.append(size, rng.integers(-(-size // 2), size + 1, shape.batch - 1))
        for size in (shape.clips, shape.tokens)
    )
    video_mask, text_mask = (np.arange(lengths.max()) < lengths[:, None] for lengths in (clips, tokens))
    video = rng.standard_normal((shape.batch, shape.levels, shape.clips, shape.video_dim), dtype=np.float32)
    text = rng.standard_normal((shape.batch, shape.levels, shape.tokens, shape.text_dim), dtype=np.float32)
    counts = rng.integers(1, MOST_MOMENTS + 1, shape.batch)
    moment_mask = np.arange(counts.max()) < counts[:, None]
    width = rng.uniform(0.1, 0.5, moment_mask.shape)
    centre = rng.uniform(width / 2, 1 - width / 2)
    saliency = rng.uniform(size=video_mask.shape) * video_mask
    records = [
        Record(number, f"video {number}", "a query", duration=float(length * CLIP_SECONDS))
        for number, length in enumerate(clips)
    ]
    arrays = {
        "video": (video * video_mask[:, None, :, None]).astype(np.float16),
        "video_mask": video_mask,
        "text": (text * text_mask[:, None, :, None]).astype(np.float16),
        "text_mask": text_mask,
        "num_clips": clips.astype(np.float32),
        "video_index": np.arange(shape.batch),
        "moments": (np.stack([centre, width], axis=-1) * moment_mask[..., None]).astype(np.float32),
        "moment_mask": moment_mask,
        "saliency": saliency.astype(np.float32),
        "positive_clip": saliency.argmax(axis=1),
        "negative_clip": (saliency + ~video_mask).argmin(axis=1),
    }
    return Batch(records, **{name: torch.from_numpy(array) for name, array in arrays.items()})


def about_one_video(batch: Batch) -> Batch:
    """The batch with all queries on its first video; the labels are unchanged and therefore wrong."""
    size = len(batch)
    return replace(
        batch,
        video=batch.video[:1],
        video_mask=batch.video_mask[:1].expand(size, -1),
        num_clips=batch.num_clips[:1].expand(size),
    )
