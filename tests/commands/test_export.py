"""``sdst export``: the same outputs as the model in both formats, and the documented example without this package.

Tracing and converting a model takes most of the time, so each format is tried with one model: ONNX with the default
attention, torch with PureInit. What PureInit adds is converted to ONNX alone.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.corpus import Corpus
from helpers.one_line import one_line
from sdst.cli import main
from sdst.config.schema import Decoding
from sdst.data.annotations import read_annotations
from sdst.inference.stored import open_matching_store
from sdst.models.interpolation import ClipAxis
from sdst.models.proposals import ProposalHead
from sdst.sharing.export import INPUTS, OUTPUTS, WITHOUT_ONNX_OPERATOR, SideNetwork
from sdst.training import checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Run = Callable[..., list[np.ndarray]]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


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


def batches(levels: int, width: int) -> list[Inputs]:
    """Batches of other sizes than the one that is traced, with garbage in padded places."""
    random = torch.Generator().manual_seed(0)
    made = []
    for clips, tokens in (
        ([7, 3, 1, 5], [4, 6, 1, 2]),
        ([7, 3], [9, 2]),
        ([5], [2]),
        ([1], [1]),
        ([90, 2], [3, 3]),
    ):
        video_mask, text_mask = (
            torch.arange(max(lengths)) < torch.tensor(lengths)[:, None] for lengths in (clips, tokens)
        )
        video, text = (
            torch.randn(len(mask), levels, mask.shape[1], width, generator=random)
            for mask in (video_mask, text_mask)
        )
        video, text = (
            torch.where(mask[:, None, :, None], features, 100).half()
            for mask, features in ((video_mask, video), (text_mask, text))
        )
        made.append((video, video_mask, text, text_mask, torch.tensor(clips) - 0.4))
    return made


def assert_same_outputs(network: SideNetwork, run: Run, inputs: Inputs) -> None:
    with torch.no_grad():
        wanted = dict(zip(OUTPUTS, network(*inputs), strict=True))
    found = dict(zip(OUTPUTS, run(*inputs), strict=True))
    _, video_mask, _, _, num_clips = inputs
    durations = num_clips.numpy()[:, None, None] * network.clip_seconds
    moments = wanted["moments"].numpy()
    np.testing.assert_allclose(found["moments"] / durations, moments / durations, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["scores"], wanted["scores"].numpy(), rtol=0, atol=1e-4)
    valid = video_mask.numpy()
    np.testing.assert_allclose(found["saliency"][valid], wanted["saliency"].numpy()[valid], rtol=0, atol=1e-4)


def example(package: str) -> str:
    """The documented example that imports a package."""
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "docs/sharing.md").read_text(), flags=re.DOTALL)
    (found,) = [block for block in blocks if f"import {package}\n" in block]
    assert "sdst" not in found
    assert len(found.splitlines()) <= 20
    return str(found)


def run_example(
    package: str, monkeypatch: pytest.MonkeyPatch, place: Path, run: Path, corpus: Corpus, exported: Run
) -> None:
    """Run a documented example on a stored query, and the exported model on others; compare with the model itself."""
    model, config, recipe = checkpoint.load(run)
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
    for other in (inputs, *batches(len(video), video.shape[2])):
        assert_same_outputs(network, exported, other)


def test_a_torch_program_of_pure_init_gives_the_models_outputs_and_the_documented_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, train: Callable[..., Path], corpus: Corpus
) -> None:
    run = train(tmp_path / "run", "attention=pure_init", "levels.count=1")
    assert main(["export", str(run), "--format", "torch", "--out", str(tmp_path / "model.pt2")]) == 0
    exported = torch_program(tmp_path / "model.pt2")
    run_example("torch", monkeypatch, tmp_path, run, corpus, exported)
    extra = {"recipe.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["recipe.json"]) == checkpoint.load(run)[2]


def test_onnx_runtime_gives_the_models_outputs_and_the_documented_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: Path, corpus: Corpus
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    assert main(["export", str(finished), "--format", "onnx", "--out", str(tmp_path / "model.onnx")]) == 0
    exported = onnx_session(tmp_path / "model.onnx")
    run_example("onnxruntime", monkeypatch, tmp_path, finished, corpus, exported)
    assert b".py" not in (tmp_path / "model.onnx").read_bytes()  # source files would name the machine


class Proposals(nn.Module):
    """What PureInit adds to the model: the choice of clips for the first queries."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.propose = ProposalHead(dim=8, pure=True)
        self.queries, self.references = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(4, 2))

    def forward(self, dense: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        count = mask.sum(dim=1).float()
        return tuple(self.propose(dense, self.queries, self.references, ClipAxis(mask, count, count)))


def test_onnx_runtime_selects_the_clips_that_pure_init_selects(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    proposals = Proposals().eval()
    batch, clips = torch.export.Dim("batch"), torch.export.Dim("clips")
    program = torch.export.export(
        proposals,
        (torch.zeros(3, 7, 8), torch.ones(3, 7, dtype=torch.bool)),
        dynamic_shapes=({0: batch, 1: clips}, {0: batch, 1: clips}),
        strict=True,
    ).run_decompositions(WITHOUT_ONNX_OPERATOR)
    made = torch.onnx.export(program, dynamo=True, input_names=["dense", "mask"], verbose=False)
    made.save(tmp_path / "m.onnx")
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "m.onnx")
    for lengths in ([9, 2, 4], [1], [6, 12]):
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        # Of clips with equal scores the first ones are taken.
        for dense in (torch.randn(*mask.shape, 8), torch.zeros(*mask.shape, 8)):
            with torch.no_grad():
                wanted = proposals(dense, mask)
            found = session.run(None, {"dense": dense.numpy(), "mask": mask.numpy()})
            for theirs, ours in zip(found, wanted, strict=True):
                np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-4)


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
