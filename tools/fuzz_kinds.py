"""Good files of every kind, the command or reader that gets them, and the ways to break them."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from helpers.corpus import Corpus, write_rows
from helpers.shared_data import SHARED
from mutations import (
    Mutation,
    mutate_arrays,
    mutate_checkpoint,
    mutate_checkpoint_targets,
    mutate_codec,
    mutate_hdf5,
    mutate_json,
    mutate_rows,
    mutate_targets,
    mutate_vids,
    mutate_yaml,
    reorder_rows,
)
from sdst.cli import main
from sdst.errors import UserError
from sdst.features.backbone.sizes import SHIPPED, read_config
from sdst.features.backbone.weights import read_tensors
from sdst.features.importers.arrays import read_contents
from sdst.features.importers.axes import decide
from sdst.features.writer import FeatureWriter
from sdst.sweeps.tables import experiments_dir

ACCEPTED = (0, 2, 3)
"""Allowed exit statuses: success, user error, some of many inputs failed."""


@dataclass(frozen=True)
class Kind:
    """Input of one kind.

    Attributes:
        originals: Good files, or folders that hold the ``target``.
        read: Command or reader that gets the broken file.
        mutations: Ways to break it, besides changing bytes.
        targets: Files in the folder to break; empty where the original is the file.
    """

    originals: list[Path]
    read: Callable[[Path], object]
    mutations: list[Mutation]
    targets: tuple[str, ...] = ()


def command(*arguments: object) -> int:
    status = main([str(argument) for argument in arguments])
    assert status in ACCEPTED, f"exit status {status}"
    return status


class ReachedTrainingError(Exception):
    """The input was accepted, so the case ends before training starts."""


def resume(folder: Path, *overrides: str) -> bool:
    """Resume a run until its training would start; return whether it would."""
    reached = patch("lightning.Trainer.fit", side_effect=ReachedTrainingError)
    with reached, contextlib.suppress(ReachedTrainingError):
        command("train", f"resume={folder}", *overrides)
        return False
    return True


PROGRAMS = ("this", "torch.utils.model_dump.__main__", "wandb.__main__")
"""Modules that act when they are imported; broken targets name them."""


def resume_with_targets(folder: Path) -> None:
    resume(folder)
    ran = [name for name in PROGRAMS if name in sys.modules]
    assert not ran, f"imported before they were checked: {ran}"


def extract_beside(good: Path, video: Path) -> None:
    """Extract features of a good video and of another: the good one's must be there whatever the other is."""
    folder = video.parent
    shutil.copy(good, folder)
    rows = [
        {"qid": i, "vid": path.stem, "query": "a dog", "duration": 4} for i, path in enumerate([good, video])
    ]
    files = ["--annotations", write_rows(folder / "rows.jsonl", rows), "--videos", folder]
    how = ["--config", "small-world", "--layers", 1, "--workers", 0, "--batch-size", 2]
    out = folder / "f.h5"
    status = command("extract", *files, *how, "--out", out)
    assert status == (3 if (folder / "f.failed.jsonl").exists() else 0), f"exit status {status}"
    assert out.exists(), "the good video was not extracted"
    if status:
        raise UserError("the video was refused")


def continue_writing(journal: Path) -> None:
    out = journal.with_suffix("")
    with write_features(out) as writer:
        if not writer.has_text(1):
            writer.write_text(1, np.ones((2, 1, 4)))
        if not writer.has_video("v", "avg"):
            writer.write_video("avg", "v", np.ones((2, 1, 4)))
        writer.finish()
    command("features", "validate", out)


def write_features(path: Path) -> FeatureWriter:
    return FeatureWriter(path, backbone="b", video_layers=[1], text_layers=[1], clip_seconds=2.0)


def decode(path: Path) -> None:
    from sdst.features.clip_loader import load_clips
    from sdst.features.video import ClipSpec

    list(load_clips([("v", path)], ClipSpec(2.0, 2, 16), 4, num_workers=0))


def make_kinds(corpus: Corpus, run: Path, folder: Path) -> dict[str, Kind]:
    """Return kinds by name; write generated originals to the folder."""
    val, features, best = corpus.paths["val"], corpus.features, run / "checkpoints/best.ckpt"
    submission = run / "val_submission.jsonl"
    stored = ["--features", features, "--annotations", val]
    annotations = [val]
    for name in ("qvhighlights/highlight_val_release", "charades/charades_test_release", "tacos/val"):
        if (source := SHARED / f"annotations/{name}.jsonl").is_file():
            annotations.append(folder / source.name)
            annotations[-1].write_text("".join(source.open().readlines()[:20]))

    unfinished = folder / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "metrics.json").unlink()
    runs = folder / "runs"
    make_sweep(runs, run)

    journal = folder / "j.h5.partial"
    with write_features(folder / "j.h5") as writer:
        writer.write_text(0, np.ones((2, 1, 4)))
        writer.write_video("avg", "u", np.ones((3, 1, 4)))

    arrays = [folder / f"array{suffix}" for suffix in (".npy", ".npz", ".pt")]
    np.save(arrays[0], np.ones((4, 2, 3, 5), np.float32))
    np.savez(arrays[1], features=np.ones((4, 5)), last_hidden_state=np.ones((4, 5)))
    torch.save(torch.ones(4, 2, 5), arrays[2])
    packed_rows = folder / "packed.jsonl"
    packed_rows.write_text(json.dumps({"qid": 7, "vid": "array", "duration": 8, "query": "a query"}))
    packed = folder / "packed"
    packed.mkdir()
    for name in ("array.npz", "7.npz"):
        shutil.copy(arrays[1], packed / name)
    archives = [
        Path(shutil.make_archive(str(folder / "packed"), kind, packed)) for kind in ("tar", "gztar", "zip")
    ]
    weights = [
        folder / "weights.pt",
        SHIPPED["small-world"] / "weights.safetensors",
    ]
    torch.save({"module": {f"w{i}": torch.ones(3, 4) for i in range(4)}}, weights[0])
    sizes = folder / "sizes.json"
    sizes.write_text(json.dumps({"vision": VISION, "text": TEXT}))

    def read_array(path: Path) -> None:
        for kind in ("video", "text"):
            with contextlib.suppress(UserError):
                contents = read_contents(
                    path.read_bytes(), str(path), usual=["features", "last_hidden_state"]
                )
                decide(kind, [contents]).apply(contents)

    def import_archive(path: Path) -> None:
        options = ["--annotations", packed_rows, "--from", path, "--out", path.with_name("imported.h5")]
        command("features", "import", *options, "--backbone", "b")

    def read_features(path: Path) -> None:
        command("features", "inspect", path)
        command("features", "validate", path, "--annotations", val)
        command("features", "merge", path, "--out", path.with_name("merged.h5"))
        command("predict", "--checkpoint", best, "--features", path, "--annotations", val)

    def resume_on(annotations: Path) -> None:
        """Resume an unfinished run on changed annotations: only an unchanged file may be accepted."""
        copy = shutil.copytree(unfinished, annotations.parent / "run")
        given = f"data.annotations.{annotations.stem}={annotations}"
        is_changed = annotations.read_bytes() != corpus.paths[annotations.stem].read_bytes()
        resumed = resume(copy, given)
        assert not (is_changed and resumed), "the run was resumed on changed annotations"

    def predict_with(checkpoint: Path) -> None:
        command("predict", "--checkpoint", checkpoint, *stored)
        ran = [name for name in PROGRAMS if name in sys.modules]
        assert not ran, f"imported before they were checked: {ran}"

    kinds = {
        "annotations": Kind(
            annotations,
            lambda path: (
                command("evaluate", submission, path),
                command("features", "validate", features, "--annotations", path),
                command("predict", "--checkpoint", best, "--features", features, "--annotations", path),
                command(
                    "features",
                    "simulate",
                    path,
                    "--out",
                    path.with_name("s.h5"),
                    "--video-dim",
                    8,
                    "--levels",
                    1,
                ),
            ),
            [mutate_rows],
        ),
        "predictions": Kind(
            [submission], lambda path: command("evaluate", path, val, "--json"), [mutate_rows]
        ),
        "analysed runs": Kind([run], lambda path: command("analyze", path), [mutate_json], ("metrics.json",)),
        "features": Kind([features], read_features, [mutate_hdf5]),
        "checkpoints": Kind(
            [best, run / "checkpoints/last.ckpt"],
            lambda path: command("predict", "--checkpoint", path, *stored),
            [mutate_checkpoint],
        ),
        "run folders": Kind([unfinished], resume, [mutate_yaml], ("config.yaml",)),
        "experiments": Kind(
            sorted(experiments_dir().glob("table[3EM].yaml")),
            lambda path: command("report", path, "--runs", runs),
            [mutate_yaml],
        ),
        "reports": Kind(
            [runs],
            lambda path: command("report", "table3", "--runs", path),
            [mutate_json],
            ("sweeps/table3-laptop.json", f"jobs/{JOB}/metrics.json", f"jobs/{JOB}/run.json"),
        ),
        "targets": Kind([unfinished], resume_with_targets, 2 * [mutate_targets], ("config.yaml",)),
        "checkpoint targets": Kind([best], predict_with, 2 * [mutate_checkpoint_targets]),
        "changed annotations": Kind([corpus.paths["train"], val], resume_on, [mutate_rows, reorder_rows]),
        "permuted vids": Kind(
            [submission], lambda path: command("evaluate", path, val, "--json"), 2 * [mutate_vids]
        ),
        "journals": Kind([journal], continue_writing, []),
        "arrays": Kind(arrays, read_array, [mutate_arrays]),
        "archives": Kind(archives, import_archive, []),
        "backbone weights": Kind(weights, read_tensors, []),
        "backbone sizes": Kind([sizes], read_config, [mutate_json]),
    }
    if videos := sorted((SHARED / "videos").glob("*.*")):
        kinds["videos"] = Kind(videos[:3], decode, [])
    if find_spec("av") and find_spec("transformers"):
        good, *videos = make_videos(folder)
        kinds["video streams"] = Kind(videos, partial(extract_beside, good), [mutate_codec])
    return kinds


def make_videos(folder: Path) -> list[Path]:
    """Write a good video, videos of several containers and codecs, and a drawing that bears the name of a video."""
    from helpers.video_files import write_grey_video, write_with_sound  # needs the libraries checked above

    drawing = folder / "drawing.mp4"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="5"/></svg>')
    return [
        write_grey_video(folder / "good.mov", [i / 5 for i in range(20)]),
        write_with_sound(folder / "h264.mp4", 40),
        write_with_sound(folder / "sound.mov", 40, sound=(0.0, 3.0)),
        write_with_sound(folder / "mpeg4.mp4", 40, codec="mpeg4"),
        write_with_sound(folder / "vp8.webm", 40, codec="libvpx"),
        drawing,
    ]


JOB = "0123456789ab"
VISION = {"in_chans": 3, "img_size": 12, "patch_size": 6, "num_frames": 3, "tubelet_size": 1, "embed_dim": 8}
VISION |= {"depth": 2, "num_heads": 2, "mlp_ratio": 1, "attn_pool_num_heads": 4, "clip_embed_dim": 5}
TEXT = {"hidden_size": 6, "intermediate_size": 7, "num_attention_heads": 2, "num_hidden_layers": 3}
TEXT |= {"fusion_layer": 2, "vocab_size": 11, "max_position_embeddings": 9, "layer_norm_eps": 1}


def make_sweep(runs: Path, run: Path) -> None:
    """Write a finished job of table 3 and the manifest of its sweep."""
    shutil.copytree(run, runs / "jobs" / JOB)
    shutil.rmtree(runs / "jobs" / JOB / "checkpoints")
    (runs / "sweeps").mkdir()
    rows = ("CLS token", "Average pooling")
    jobs = [{"row": row, "dataset": "qvhighlights", "seed": 0, "identity": JOB} for row in rows]
    text = json.dumps({"experiment": "table3", "scale": "laptop", "overrides": [], "jobs": jobs})
    (runs / "sweeps/table3-laptop.json").write_text(text)
