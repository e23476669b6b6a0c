"""``sdst export``: the same outputs as the model in both formats, and the documented example without this package."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.corpus import Corpus
from helpers.one_line import one_line
from helpers.tiny_sdst import DT, DV, build, make_batch
from sdst.bench.workload import Shape, random_batch
from sdst.cli import main
from sdst.config.schema import Decoding
from sdst.data.annotations import read_annotations
from sdst.inference.stored import open_matching_store
from sdst.sharing.export import INPUTS, OUTPUTS, SideNetwork, write_onnx, write_torch
from sdst.training import checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DECODING = Decoding(nms="none", sigma=0.5, iou_threshold=0.0, round_to=None, max_moments=None)
LEVELS = 1
"""K of PureInit's export, whose time grows with it; the documented examples export two levels."""
BATCHES = [
    (video[:, :LEVELS], video_mask, text[:, :LEVELS], text_mask, num_clips)
    for video, video_mask, text, text_mask, num_clips in (
        make_batch().inputs(),
        make_batch([0, 1], extra_clips=5, extra_tokens=3, fill=100).inputs(),
        make_batch([3]).inputs(),
        make_batch([2]).inputs(),  # one clip, one token
        make_batch([1, 0, 3, 1, 2, 0], extra_clips=90).inputs(),
    )
]
RECIPE = {"video_layers": [0] * LEVELS, "video_dim": DV, "text_dim": DT, "clip_seconds": 2.0}
Run = Callable[..., list[np.ndarray]]


def torch_program(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda *inputs: [output.detach().numpy() for output in module(*inputs)]


def onnx_session(path: Path) -> Run:
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    assert [node.name for node in session.get_inputs()] == [*INPUTS]
    assert [node.name for node in session.get_outputs()] == [*OUTPUTS]
    return lambda *inputs: session.run(
        None, {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
    )


def assert_same_outputs(network: SideNetwork, run: Run, batches: list[tuple[torch.Tensor, ...]]) -> None:
    for video, video_mask, text, text_mask, num_clips in batches:
        inputs = (video, video_mask, text, text_mask, num_clips)
        with torch.no_grad():
            wanted = dict(zip(OUTPUTS, network(*inputs), strict=True))
        found = dict(zip(OUTPUTS, run(*inputs), strict=True))
        durations = num_clips.numpy()[:, None, None] * RECIPE["clip_seconds"]
        moments = wanted["moments"].numpy()
        np.testing.assert_allclose(found["moments"] / durations, moments / durations, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["scores"], wanted["scores"].numpy(), rtol=0, atol=1e-4)
        valid = video_mask.numpy()
        np.testing.assert_allclose(
            found["saliency"][valid], wanted["saliency"].numpy()[valid], rtol=0, atol=1e-4
        )


def pure_init() -> SideNetwork:
    """The attention whose operators the others have too, except RDSA, which the documented examples export."""
    return SideNetwork(build(attention="pure_init", levels=LEVELS), DECODING, RECIPE["clip_seconds"]).eval()


def test_torch_export_gives_the_models_outputs_for_any_lengths(tmp_path: Path) -> None:
    network = pure_init()
    write_torch(network, RECIPE, tmp_path / "m.pt2")
    assert_same_outputs(network, torch_program(tmp_path / "m.pt2"), BATCHES)


def test_onnx_runtime_gives_the_models_outputs_for_any_lengths(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    network = pure_init()
    write_onnx(network, RECIPE, tmp_path / "m.onnx")
    assert_same_outputs(network, onnx_session(tmp_path / "m.onnx"), BATCHES)
    assert b".py" not in (tmp_path / "m.onnx").read_bytes()  # source files would name the machine


def example(package: str) -> str:
    """The documented example that imports a package."""
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "docs/sharing.md").read_text(), flags=re.DOTALL)
    (found,) = [block for block in blocks if f"import {package}\n" in block]
    assert "sdst" not in found
    assert len(found.splitlines()) <= 20
    return str(found)


def run_example(
    package: str, monkeypatch: pytest.MonkeyPatch, place: Path, finished: Path, corpus: Corpus, exported: Run
) -> None:
    """Run a documented example on a stored query, and the exported model on others; compare with the model itself."""
    model, config, recipe = checkpoint.load(finished)
    store = open_matching_store(str(corpus.features), recipe)
    record = read_annotations(corpus.paths["val"]).records[0]
    video, text = store.video(record.vid), store.text(record.qid)
    np.savez(place / "features.npz", video=video, text=text, duration=record.duration)
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    exec(example(package), names)

    network = SideNetwork(model, Decoding(**config["decode"]), recipe["clip_seconds"]).eval()
    inputs = (
        *(torch.from_numpy(video)[None], torch.ones(1, video.shape[1], dtype=torch.bool)),
        *(torch.from_numpy(text)[None], torch.ones(1, text.shape[1], dtype=torch.bool)),
        torch.tensor([record.duration / recipe["clip_seconds"]], dtype=torch.float32),
    )
    with torch.no_grad():
        moments, scores, saliency = network(*inputs)
    best = int(scores[0].argmax())
    wanted = moments[0, best].clamp(0, record.duration).tolist()
    assert [names["start"], names["end"]] == pytest.approx(wanted, abs=1e-3)
    assert saliency.shape == (1, video.shape[1])
    sizes = Shape(batch=3, clips=9, tokens=5, levels=video.shape[0], video_dim=16, text_dim=16)
    assert_same_outputs(network, exported, [inputs, random_batch(sizes).inputs()])


def test_documented_torch_example_finds_the_models_best_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: Path, corpus: Corpus
) -> None:
    assert main(["export", str(finished), "--format", "torch", "--out", str(tmp_path / "model.pt2")]) == 0
    exported = torch_program(tmp_path / "model.pt2")
    run_example("torch", monkeypatch, tmp_path, finished, corpus, exported)
    extra = {"recipe.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["recipe.json"]) == checkpoint.load(finished)[2]


def test_documented_onnx_example_finds_the_models_best_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: Path, corpus: Corpus
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    assert main(["export", str(finished), "--format", "onnx", "--out", str(tmp_path / "model.onnx")]) == 0
    exported = onnx_session(tmp_path / "model.onnx")
    run_example("onnxruntime", monkeypatch, tmp_path, finished, corpus, exported)


def test_wrong_arguments_are_refused_in_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").touch()
    for name, form, said in (
        ("m.onnx", "torch", "must end with .pt2"),
        ("m.onnx", "onnx", "already exists and is never overwritten"),
    ):
        arguments = ["export", str(finished), "--format", form, "--out", str(tmp_path / name)]
        assert said in one_line(capsys, arguments)
    assert "no such checkpoint" in one_line(
        capsys, ["export", str(tmp_path / "absent"), "--format", "torch", "--out", str(tmp_path / "m.pt2")]
    )
