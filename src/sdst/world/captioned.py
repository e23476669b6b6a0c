"""Captioned clips of the small world to train its backbone, from scenes that are in none of its splits."""

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
from sdst.files.orphans import begin_worker
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
"""Number in the random seed that separates these scenes from those of the splits, whose numbers are small."""
LONE_SHARE = 0.4
"""Share of the scenes that show a single thing, from which the backbone learns motion first."""


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """Plan of the clips to draw; equal plans give equal clips.

    Attributes:
        num_scenes: Number of scenes.
        clips_per_scene: Largest number of clips per scene; scenes that show too little have fewer.
        held_out: Whether scenes may show combinations that are held out from training.
        seed: Seed of the scenes.
        num_frames: Number of frames per clip.
        size: Side of the square frames in pixels.
    """

    num_scenes: int
    clips_per_scene: int
    held_out: bool
    seed: int
    num_frames: int
    size: int


@dataclass(frozen=True, slots=True)
class CaptionedClips:
    """Clips with all facts that are true of them.

    Attributes:
        frames: (N, 3, F, S, S) uint8 frames.
        shown: (N, len(FACTS)) whether the clip shows the fact; at least one fact per clip.
    """

    frames: NDArray[np.uint8]
    shown: NDArray[np.bool_]


def plan_clips(vision: VisionConfig, num_scenes: int, *, held_out: bool, seed: int) -> ClipPlan:
    """Make a plan for a vision tower of these sizes."""
    return ClipPlan(num_scenes, 16, held_out, seed, vision.num_frames, vision.img_size)


def draw_clips(plan: ClipPlan, folder: Path, workers: int) -> CaptionedClips:
    """Draw the clips into a folder, or read them if they are already there.

    Args:
        plan: Plan of the clips.
        folder: Folder of ``frames.npy``, ``shown.npy`` and, once these are complete, ``plan.json``.
        workers: Number of processes that draw.
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
    """Start processes that use one thread each and end with this one."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_begin_worker)


def _begin_worker() -> None:
    torch.set_num_threads(1)
    begin_worker()


def draw_scene_clips(plan: ClipPlan, number: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw the clips (n, 3, F, S, S) of one scene, n ≤ ``clips_per_scene``, and the facts they show (n, len(FACTS))."""
    rng = np.random.default_rng((plan.seed, STREAM + plan.held_out, number))
    grid = (1, 1) if rng.random() < LONE_SHARE else None
    scene = draw_scene(f"scene-{number}", held_out=plan.held_out, rng=rng, grid=grid)
    facts = visible_facts(scene)
    clips = [clip for clip in rng.permutation(scene.num_clips).tolist() if facts[clip]]
    clips = clips[: plan.clips_per_scene]
    frames = np.empty((len(clips), 3, plan.num_frames, plan.size, plan.size), np.uint8)
    shown = np.zeros((len(clips), len(FACTS)), dtype=bool)
    # The same times at which the video reader samples a clip.
    centres = (np.arange(plan.num_frames) + 0.5) * CLIP_SECONDS / plan.num_frames
    for place, clip in enumerate(clips):
        pictures = add_noise(render(scene, clip * CLIP_SECONDS + centres), scene.noise, rng)
        shrunk = F.interpolate(
            torch.from_numpy(pictures).movedim(-1, 1).float(), (plan.size,) * 2, mode="bicubic"
        )
        frames[place] = shrunk.round_().clamp_(0, 255).byte().transpose(0, 1).numpy()
        shown[place, [FACTS.index(fact) for fact in facts[clip]]] = True
    return frames, shown
