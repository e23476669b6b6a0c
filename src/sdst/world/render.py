"""Rendering of scenes as pictures and as video files."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np

from sdst.errors import UserError
from sdst.files.atomic import atomic_path
from sdst.world.scene import CLIP_SECONDS, SIDE, actor_states
from sdst.world.shapes import band, coverage

try:
    import av
except ImportError:
    raise UserError("making videos needs PyAV; install it with pip install 'sdst[extract]'") from None

if TYPE_CHECKING:
    from pathlib import Path

    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from sdst.world.scene import Background, Scene

    Floats = NDArray[np.float64]
    Pixels = NDArray[np.uint8]

FRAME_RATE = 4  # frames per second that the small backbone reads
CODECS = {"libx264": {"preset": "ultrafast", "crf": "33", "g": "24"}, "mpeg4": {"qscale": "6"}}
"""Encoders in order of preference (the first available one is used) -> their settings.

For the same quality (29 dB), x264's "veryfast" with crf 30 needs half the bytes and three times the time.
"""
WAVES = 30  # number of waves that are added up to a background
MOST_WAVES = 7  # largest number of crests of a wave across the picture
TINT = 8  # largest change of a background's colour channel, in grey levels


def render(scene: Scene, times: Floats) -> Pixels:
    """Render the scene at the given times (N,) without noise: (N, SIDE, SIDE, 3) in RGB."""
    shift_x, shift_y = scene.camera.shift(times)
    pictures = _background(scene.background, times, shift_x, shift_y)
    for actor in scene.actors:
        states = actor_states(actor, times)
        if not states.present.any():
            continue
        reach = min(int(states.radius.max()) + 2, SIDE // 2 - 1)
        columns, x = _grid(states.x + shift_x, reach)
        rows, y = _grid(states.y + shift_y, reach)
        inside = coverage(actor.shape, x[:, None, :], y[:, :, None], states.radius[:, None, None], actor.tilt)
        _paint(pictures, rows, columns, inside * states.present[:, None, None], actor.rgb)
    for pillar in scene.pillars:
        columns, x = _grid(pillar.x + shift_x, int(pillar.width / 2) + 2)
        rows = np.broadcast_to(np.arange(SIDE), (len(times), SIDE))
        _paint(pictures, rows, columns, band(x, pillar.width)[:, None, :], (pillar.grey,) * 3)
    return pictures


def write_video(scene: Scene, path: Path) -> None:
    """Write the scene as an mp4 file; the same scene always gives the same bytes on the same machine.

    The file only appears under its name once it is complete.

    Raises:
        UserError: The file cannot be written.
    """
    rng = np.random.default_rng(scene.seed)
    codec = next(codec for codec in CODECS if codec in av.codecs_available)
    try:
        with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
            stream = cast("VideoStream", container.add_stream(codec, rate=FRAME_RATE, options=CODECS[codec]))
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
            stream.codec_context.thread_count = 1  # several threads may divide the work differently each time
            for clip in range(scene.num_clips):
                times = clip * CLIP_SECONDS + np.arange(FRAME_RATE * CLIP_SECONDS) / FRAME_RATE
                for picture in add_noise(render(scene, times), scene.noise, rng):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise UserError(
            f"{path}: cannot write the video ({error.strerror}); choose another folder"
        ) from error


def _background(background: Background, times: Floats, shift_x: Floats, shift_y: Floats) -> Pixels:
    pattern = _clouds(background)
    left = -np.rint(background.x + background.vx * times + shift_x).astype(int) % SIDE
    top = -np.rint(background.y + background.vy * times + shift_y).astype(int) % SIDE
    return np.stack(
        [pattern[y : y + SIDE, x : x + SIDE] for y, x in zip(top.tolist(), left.tolist(), strict=True)]
    )


@lru_cache(maxsize=1)  # a video is rendered clip by clip
def _clouds(background: Background) -> Pixels:
    """Make a pattern of random waves that repeats after SIDE pixels, as a picture (2 SIDE, 2 SIDE, 3)."""
    rng = np.random.default_rng(background.seed)
    waves = rng.integers(-MOST_WAVES, MOST_WAVES + 1, (WAVES, 2, 1, 1))
    phases = rng.uniform(0, 2 * np.pi, (WAVES, 1, 1))
    down, right = np.mgrid[:SIDE, :SIDE] * 2 * np.pi / SIDE
    angles = waves[:, 0] * down + waves[:, 1] * right + phases
    heights = 1 / np.hypot(*waves.transpose(1, 0, 2, 3)).clip(1)  # longer waves are higher, as in clouds
    brightness = (
        (heights * np.cos(angles)).sum(axis=0) * background.contrast / np.sqrt((heights**2).sum() / 2)
    )
    tint = rng.uniform(-TINT, TINT, 3)
    pattern: Floats = background.grey + brightness[:, :, None] + tint
    return np.tile(pattern.clip(0, 255).astype(np.uint8), (2, 2, 1))


def _grid(centre: Floats, reach: int) -> tuple[NDArray[np.int64], Floats]:
    """Return pixels around each centre (N,) along one axis: their indices on the torus and distances from the centre.

    Both are (N, 2 * reach + 1).
    """
    places = np.rint(centre).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    return places % SIDE, places - centre[:, None]


def _paint(
    pictures: Pixels,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    share: Floats,
    rgb: tuple[int, ...],
) -> None:
    """Blend a colour into pictures (N, SIDE, SIDE, 3) at rows (N, R) and columns (N, C) by shares (N, R or 1, C)."""
    # With one index per pixel, NumPy is several times as fast as with three.
    picture = np.arange(len(pictures)).reshape(-1, 1, 1)
    where = (picture * SIDE + rows[:, :, None]) * SIDE + columns[:, None, :]
    pixels = pictures.reshape(-1, 3)
    over = pixels.take(where, axis=0).astype(np.float32)
    over += share[..., None].astype(np.float32) * (np.array(rgb, np.float32) - over)
    pixels[where] = np.rint(over, out=over).astype(np.uint8)


def add_noise(pictures: Pixels, deviation: float, rng: np.random.Generator) -> Pixels:
    """Add the same noise to all three colours of a pixel of pictures (N, SIDE, SIDE, 3)."""
    noise = rng.standard_normal(pictures.shape[:3], dtype=np.float32)
    noise *= np.float32(deviation)
    noisy: NDArray[np.int16] = pictures + np.rint(noise, out=noise).astype(np.int16)[..., None]
    return noisy.clip(0, 255, out=noisy).astype(np.uint8)
