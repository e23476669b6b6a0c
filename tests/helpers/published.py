"""Feature files as other projects publish them, with the shapes and names of each layout, and what they hold."""

import json
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

Rows = dict[int, tuple[str, float, int]]
ROWS: Rows = {0: ("a_0.0_150.0", 150, 7), 2: ("-b_60.0_210.0", 150, 11), 5: ("c", 126, 4)}
"""qid -> (vid, seconds, words)."""


@dataclass(frozen=True)
class Published:
    """Files of one project.

    Attributes:
        folder: Folder of everything.
        annotations: Annotation file.
        videos: vid -> (layers, T, D) as they must be stored.
        queries: qid -> (layers, L, D).
        video_folders: Names of the folders of videos.
        query_folder: Name of the folder of queries.
    """

    folder: Path
    annotations: Path
    videos: dict[str, np.ndarray]
    queries: dict[int, np.ndarray]
    video_folders: tuple[str, ...]
    query_folder: str


def write_annotations(path: Path, rows: Rows = ROWS) -> Path:
    lines = [
        {
            "qid": qid,
            "vid": vid,
            "duration": seconds,
            "query": " ".join(["word"] * words),
            "relevant_windows": [[2, 8]],
        }
        for qid, (vid, seconds, words) in rows.items()
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def publish(layout: str, folder: Path, rows: Rows = ROWS, *, clip_seconds: float = 2) -> Published:
    """Write a project's files in the folders, names and shapes of its layout."""
    rng = np.random.default_rng(sum(map(ord, layout)))
    folder.mkdir(parents=True)
    annotations = write_annotations(folder.parent / f"{layout}.jsonl", rows)
    videos, queries = {}, {}
    places = {
        "sdst": (("vid_feats",), "txt_feats"),
        "flashvtg": (("qvhighlight_6b",), "qvhighlight_llama_text_feature"),
    }
    video_folders, query_folder = places.get(layout, (("videos",), "texts"))
    if layout == "moment-detr":
        video_folders, query_folder = ("slowfast_features", "clip_features"), "clip_text_features"
    for name in (*video_folders, query_folder):
        (folder / name).mkdir(parents=True)

    def normal(*shape: int, dtype: type = np.float32) -> np.ndarray:
        return np.resize(rng.normal(size=99991), shape).astype(dtype)  # repeats, for speed

    for qid, (vid, seconds, words) in rows.items():
        num_clips, length = round(seconds / clip_seconds), words + 2
        places = [folder / name / vid for name in video_folders]
        text = folder / query_folder / str(qid)
        qid_text = folder / query_folder / f"qid{qid}"
        if layout == "sdst":
            video = normal(num_clips, 5, 768, dtype=np.float16)
            query = normal(5, length, 1024)
            np.savez(f"{places[0]}.npz", visual_feats_interm_pooled=video, visual_feats_pooled=video[:, -1])
            np.savez(f"{text}.npz", text_feats=query)
            videos[vid], queries[qid] = video.swapaxes(0, 1), query
        elif layout in {"internvideo2", "flashvtg"}:
            video, query = normal(num_clips, 768), normal(length, 4096)
            tensor = torch.from_numpy(video)
            if layout == "flashvtg":
                tensor = tensor.bfloat16()
            torch.save(tensor if layout == "flashvtg" else {"features": tensor}, f"{places[0]}.pt")
            torch.save(torch.from_numpy(query).half(), f"{qid_text}.pt")
            videos[vid], queries[qid] = tensor.float().numpy()[None], query[None]
        elif layout == "sg-detr":
            video, query = normal(num_clips, 512), normal(length, 512)
            torch.save(torch.from_numpy(video).requires_grad_(), f"{places[0]}.pt")
            np.savez(f"{text}.npz", features=query[None] if qid else query)
            videos[vid], queries[qid] = video[None], query[None]
        elif layout == "moment-detr":
            slow, clip, query = normal(num_clips + 1, 2304), normal(num_clips, 512), normal(length, 512)
            np.savez(f"{places[0]}.npz", features=slow)
            np.savez(f"{places[1]}.npz", features=clip)
            mask = np.arange(length + 3) < length
            padded = np.concatenate([query, np.zeros((3, 512), np.float32)])
            np.savez(
                f"{qid_text}.npz",
                last_hidden_state=padded,
                attention_mask=mask.astype(np.int64),
                pooler_output=query[0],
            )
            videos[vid], queries[qid] = np.concatenate([slow[:num_clips], clip], axis=1)[None], query[None]
        else:
            video, query = (
                normal(num_clips, 4, 50, 768, dtype=np.float16),
                normal(length, 4, 512, dtype=np.float16),
            )
            np.save(f"{places[0]}.npy", video)
            np.save(f"{text}.npy", query)
            videos[vid], queries[qid] = video[:, :, 0].swapaxes(0, 1), query.swapaxes(0, 1)
    return Published(folder, annotations, videos, queries, video_folders, query_folder)


def pack(folder: Path, archive: Path, *, parts: int = 1) -> Path:
    """Pack a folder into an archive of the name's type, split into parts ``.aa``, ``.ab``, ... if asked."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path in files:
                packed.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as packed:
            packed.add(folder, folder.name)
    if parts == 1:
        return archive
    content = archive.read_bytes()
    archive.unlink()
    size = len(content) // parts + 1
    for number in range(parts):
        part = archive.with_name(f"{archive.name}.a{chr(ord('a') + number)}")
        part.write_bytes(content[number * size : (number + 1) * size])
    return archive.with_name(f"{archive.name}.aa")
