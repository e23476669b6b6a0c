"""Captioned clips of the small world, for training its backbone: scenes of their own, in none of its splits."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from sdst.console.progress import progress_bars
from sdst.files.atomic import write_atomically
from sdst.world.annotate import visible_facts
from sdst.world.draw import draw_scene
from sdst.world.grammar import all_facts
from sdst.world.render import add_noise, render
from sdst.world.scene import CLIP_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sdst.features.backbone.sizes import VisionConfig

FACTS = all_facts()
STREAM = 100
"""Sets these scenes apart from those of the splits, whose numbers are small, under the same seed."""
LONE_SHARE = 0.4
"""Share of the scenes that show a single thing, from which motion is learned first."""


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """Which clips to draw; equal plans give equal clips.

    Attributes:
        num_scenes: How many scenes.
        clips_per_scene: How many clips of each, at most; scenes that show too little have fewer.
        held_out: Whether scenes may show combinations that training must not know.
        seed: Another number, other scenes.
        num_frames: Of a clip.
        size: Side of the square frames.
    """

    num_scenes: int
    clips_per_scene: int
    held_out: bool
    seed: int
    num_frames: int
    size: int


@dataclass(frozen=True, slots=True)
class CaptionedClips:
    """Clips with everything that can truly be said of them.

    Attributes:
        frames: (N, 3, F, S, S) uint8.
        shown: (N, len(FACTS)) whether the clip shows the fact; at least one per clip.
    """

    frames: NDArray[np.uint8]
    shown: NDArray[np.bool_]


def plan_clips(vision: VisionConfig, num_scenes: int, *, held_out: bool, seed: int) -> ClipPlan:
    """A plan for a tower of these sizes."""
    return ClipPlan(num_scenes, 16, held_out, seed, vision.num_frames, vision.img_size)


def draw_clips(plan: ClipPlan, folder: Path, workers: int) -> CaptionedClips:
    """Draw the clips into a folder, or find them there.

    Args:
        plan: Which clips.
        folder: Holds ``frames.npy``, ``shown.npy`` and, once they are complete, ``plan.json``.
        workers: Processes that draw.
    """
    described = folder / "plan.json"
    frames_path, shown_path = folder / "frames.npy", folder / "shown.npy"
    if not (described.is_file() and json.loads(described.read_text(encoding="utf-8")) == asdict(plan)):
        folder.mkdir(parents=True, exist_ok=True)
        described.unlink(missing_ok=True)
        shape = (plan.num_scenes * plan.clips_per_scene, 3, plan.num_frames, plan.size, plan.size)
        frames = np.lib.format.open_memmap(frames_path, "w+", np.uint8, shape)
        shown = []
        count = 0
        with _pool(workers) as pool, progress_bars() as bars:
            scenes = pool.map(draw_scene_clips, [plan] * plan.num_scenes, range(plan.num_scenes), chunksize=4)
            for clips, facts in bars.track(scenes, plan.num_scenes, description="drawing scenes"):
                frames[count : count + len(clips)] = clips
                shown.append(facts)
                count += len(clips)
        frames.flush()
        np.save(shown_path, np.concatenate(shown))
        write_atomically(described, json.dumps(asdict(plan)) + "\n")
    shown_facts = np.load(shown_path)
    return CaptionedClips(np.load(frames_path, mmap_mode="r")[: len(shown_facts)], shown_facts)


def _pool(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,))


def draw_scene_clips(plan: ClipPlan, number: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The clips (n, 3, F, S, S) of one scene, n at most ``clips_per_scene``, and what they show (n, len(FACTS))."""
    rng = np.random.default_rng((plan.seed, STREAM + plan.held_out, number))
    grid = (1, 1) if rng.random() < LONE_SHARE else None
    scene = draw_scene(f"scene-{number}", held_out=plan.held_out, rng=rng, grid=grid)
    facts = visible_facts(scene)
    clips = [clip for clip in rng.permutation(scene.num_clips).tolist() if facts[clip]]
    clips = clips[: plan.clips_per_scene]
    frames = np.empty((len(clips), 3, plan.num_frames, plan.size, plan.size), np.uint8)
    shown = np.zeros((len(clips), len(FACTS)), dtype=bool)
    # As a video reader takes them.
    centres = (np.arange(plan.num_frames) + 0.5) * CLIP_SECONDS / plan.num_frames
    for place, clip in enumerate(clips):
        pictures = add_noise(render(scene, clip * CLIP_SECONDS + centres), scene.noise, rng)
        shrunk = F.interpolate(
            torch.from_numpy(pictures).movedim(-1, 1).float(), (plan.size,) * 2, mode="bicubic"
        )
        frames[place] = shrunk.round_().clamp_(0, 255).byte().transpose(0, 1).numpy()
        shown[place, [FACTS.index(fact) for fact in facts[clip]]] = True
    return frames, shown
