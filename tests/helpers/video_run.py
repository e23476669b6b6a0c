"""A tiny model trained, through the command line, on features extracted from three synthetic videos."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.corpus import TINY, write_rows
from helpers.shared_data import SHARED
from helpers.video_files import write_video
from sdst.cli import main
from sdst.features.backbone.sizes import read_config

BACKBONE = SHARED / "oracles" / "internvideo2_stage2_tiny.pt"
BACKBONE_CONFIG = BACKBONE.with_suffix(".config.json")
SECONDS = {"a": 8.0, "b": 12.0, "c": 9.0}
WORDS = ["dog", "cat", "man", "jumps", "sleeps", "sings", "red", "ball", "##s"]


@dataclass(frozen=True)
class VideoRun:
    """Paths of the run; the longest training video has 6 clips of 2 s."""

    folder: Path
    rows: list[dict[str, object]]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "run" / "checkpoints" / "best.ckpt"

    @property
    def features(self) -> Path:
        return self.folder / "f.h5"

    @property
    def vocab(self) -> Path:
        return self.folder / "vocab.txt"

    def video(self, vid: str) -> Path:
        return self.folder / "videos" / f"{vid}.mov"

    def queries(self, vid: str) -> list[str]:
        return [str(row["query"]) for row in self.rows if row["vid"] == vid]


def write_vocab(path: Path) -> Path:
    """Write a vocabulary of the size of the tiny text tower."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    size = read_config(BACKBONE_CONFIG).text.vocab_size
    path.write_text("\n".join([*words, *(f"filler{n}" for n in range(size - len(words)))]) + "\n")
    return path


def write_coloured_video(path: Path, seconds: float, seed: int = 0) -> Path:
    """Write two random coarse pictures per second; the duration is exact to the millisecond."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (int(2 * seconds), 6, 8, 3), dtype=np.uint8)
    pictures = list(coarse.repeat(8, axis=1).repeat(8, axis=2))
    times = [index / 2 for index in range(len(pictures))]
    return write_video(path, [*pictures, pictures[-1]], [*times, seconds - 0.001])


def make_video_run(folder: Path) -> VideoRun:
    """Write videos and annotations, then run ``sdst extract`` and ``sdst train``."""
    rows: list[dict[str, object]] = []
    (folder / "videos").mkdir()
    for seed, (vid, seconds) in enumerate(SECONDS.items()):
        write_coloured_video(folder / "videos" / f"{vid}.mov", seconds, seed)
        for query in ("dog jumps", "red balls", "a man sings"):
            clips = [seed, seed + 1]
            rows.append(
                {
                    "qid": len(rows),
                    "vid": vid,
                    "query": query,
                    "duration": seconds,
                    "relevant_windows": [[2 * clips[0], 2 * clips[-1] + 2]],
                    "relevant_clip_ids": clips,
                    "saliency_scores": [[3, 4, 2]] * 2,
                }
            )
    run = VideoRun(folder, rows)
    write_rows(folder / "train.jsonl", [row for row in rows if row["vid"] != "c"])
    write_rows(folder / "val.jsonl", [row for row in rows if row["vid"] == "c"])
    write_vocab(run.vocab)
    extract = ["--annotations", folder / "train.jsonl", folder / "val.jsonl", "--videos", folder / "videos"]
    extract += ["--checkpoint", BACKBONE, "--config", BACKBONE_CONFIG, "--vocab", run.vocab]
    assert main(["extract", *map(str, extract), "--out", str(run.features), "--workers", "0"]) == 0
    train = ["data=qvhighlights", *TINY, "trainer.max_epochs=1", f"data.features={run.features}"]
    train += [f"data.annotations.{split}={folder / split}.jsonl" for split in ("train", "val")]
    assert main(["train", *train, "data.annotations.test=null", f"run_dir={folder / 'run'}"]) == 0
    return run
