"""With the official weights, R2-Tuning has the outputs, losses and raw predictions of the official code."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.composed import composed
from helpers.shared_data import FROZEN
from helpers.tiny_baselines import build, make_batch, run
from sdst.baselines.r2_tuning import R2Tuning, convert_official
from sdst.config.schema import Decoding
from sdst.errors import UserError
from sdst.losses.criterion import Criterion
from sdst.models.decoding import decode
from sdst.spans import cw_to_se, se_to_cw
from sdst.types import Batch, Record

RAW = Decoding("none", sigma=0.5, iou_threshold=0.0, round_to=None, max_moments=50, score="class")
CLIP_SECONDS = 2.0
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    """Inputs and outputs of the official code."""
    return load_file(FROZEN / "r2_tuning_tiny.io.safetensors")


def official_weights() -> dict[str, Tensor]:
    return load_file(FROZEN / "r2_tuning_tiny.weights.safetensors")


def official_model(**options: Any) -> R2Tuning:
    sizes = json.loads((FROZEN / "r2_tuning_tiny.config.json").read_text())
    model = R2Tuning(sizes["Dv"], sizes["Dt"], sizes["K"], dim=sizes["dims"], heads=sizes["heads"], **options)
    model.load_state_dict(convert_official(official_weights()))
    return model.eval()


def official_batch(io: dict[str, Tensor]) -> Batch:
    """Convert the official inputs, whose levels are concatenated on the last axis, to a ``Batch``."""
    size, clips, tokens = *io["video"].shape[:2], io["query"].shape[1]
    moments_se = io["boundary_seconds"]
    num_clips = io["video_lens"].float()
    mask = moments_se[..., 0] >= 0
    moments = se_to_cw(moments_se) / CLIP_SECONDS / num_clips[:, None, None]
    return Batch(
        records=[Record(i, str(i), "query", CLIP_SECONDS * n) for i, n in enumerate(num_clips.tolist())],
        video=io["video"].view(size, clips, 4, -1).transpose(1, 2),
        video_mask=torch.arange(clips) < io["video_lens"][:, None],
        text=io["query"].view(size, tokens, 4, -1).transpose(1, 2),
        text_mask=torch.arange(tokens) < io["query_lens"][:, None],
        num_clips=num_clips,
        video_index=torch.arange(size),
        moments=moments.where(mask[..., None], 0),
        moment_mask=mask,
        saliency=io["saliency"],
        positive_clip=io["pos_clip"][:, 0],
        negative_clip=torch.full((size,), -1),
    )


@torch.no_grad()
def test_outputs_of_a_padded_batch_equal_the_official_outputs(official: dict[str, Tensor]) -> None:
    batch = official_batch(official)
    output = run(official_model(see_padding=True), batch)
    torch.testing.assert_close(output.dense, official["out.video_emb"], **TOLERANCE)
    torch.testing.assert_close(output.query, official["out.query_emb"][:, 0], **TOLERANCE)
    torch.testing.assert_close(output.class_logits[:, 0], official["out.out_class"][..., 0], **TOLERANCE)
    bounds = cw_to_se(output.references[:, 0]) * batch.num_clips[:, None, None]
    assert output.anchors is not None
    position, stride = output.anchors.position[:, None], output.anchors.stride[:, None]
    distances = torch.tensor([-1, 1]) * (bounds - position) / stride
    torch.testing.assert_close(distances, official["out.out_coord"], **TOLERANCE)
    for i in range(4):  # the official lists begin with the deepest level
        torch.testing.assert_close(output.video[:, 3 - i], official[f"coll_v.{i}"], **TOLERANCE)
        torch.testing.assert_close(output.text[:, 3 - i], official[f"coll_q.{i}"][:, 0], **TOLERANCE)


@torch.no_grad()
def test_losses_of_a_padded_batch_equal_the_official_losses(official: dict[str, Tensor]) -> None:
    loss = composed("model=r2_tuning").loss
    criterion = Criterion(loss.weights, match_weights=loss.match_weights, alpha=loss.alpha)
    batch = official_batch(official)
    total, terms = criterion(run(official_model(see_padding=True), batch), batch)
    names = {"cls": "cls", "l1": "reg", "sal": "sal", "video": "video_cal", "layer": "layer_cal"}
    assert terms.keys() == names.keys()
    for ours, theirs in names.items():  # the official ones contain their weights
        weighted = loss.weights[ours] * terms[ours]
        torch.testing.assert_close(weighted, official[f"loss.loss_{theirs}"][0], **TOLERANCE)
    torch.testing.assert_close(total, sum(official[f"loss.loss_{name}"][0] for name in names.values()))


@torch.no_grad()
@pytest.mark.parametrize("see_padding", [False, True])
def test_predictions_equal_those_of_the_official_code_for_each_sample_alone(
    official: dict[str, Tensor], see_padding: bool
) -> None:
    """The official code predicts one sample at a time; any batch works here unless padding may change results."""
    batch = official_batch(official)
    model = official_model(see_padding=see_padding)
    together = decode(run(model, batch), batch, RAW)
    for i, clips in enumerate(official["video_lens"].tolist()):
        prediction = together[i]
        if see_padding:
            tokens = official["query_lens"][i]
            one = Batch(**{name: value[i : i + 1] for name, value in vars(batch).items()})
            one.video, one.video_mask = one.video[:, :, :clips], one.video_mask[:, :clips]
            one.text, one.text_mask = one.text[:, :, :tokens], one.text_mask[:, :tokens]
            (prediction,) = decode(run(model, one), one, RAW)
        windows = official[f"single{i}.boundary"].clone()
        windows[:, :2] = windows[:, :2].clamp(0, CLIP_SECONDS * clips)
        np.testing.assert_allclose(prediction.windows, windows, **TOLERANCE)
        np.testing.assert_allclose(prediction.saliency, official[f"single{i}.saliency"], **TOLERANCE)


def test_every_official_weight_is_converted_exactly_once() -> None:
    weights, model = official_weights(), R2Tuning(48, 40, 4, dim=64)
    converted = convert_official(weights)
    assert converted.keys() == model.state_dict().keys()
    unused = [name for name in weights if name.startswith(("adapter.q_map", "adapter.v_map", "loss."))]
    assert len(converted) + len(unused) == len(weights)
    with pytest.raises(UserError, match=r"unknown weight adapter\.new\.weight"):
        convert_official(weights | {"adapter.new.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", ["r2_tuning", "last_layer"])
def test_the_number_of_parameters_is_that_of_tab_h(name: str) -> None:
    """2.70 M, counted in units of 2^20 as the official tool does."""
    config = composed(f"model={name}")
    options = {key: value for key, value in config.model.items() if key != "_target_"}
    model = R2Tuning(768, 1024, config.levels.count, **options)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 2**20 == pytest.approx(2.70, rel=0.01)


def test_the_recurrence_ends_at_the_first_level() -> None:
    """With its gate open, a level hides all levels before it in the recurrence; the query is the first level's."""
    model, batch = build("r2_tuning"), make_batch(4)
    with torch.no_grad():
        model.refine.gates.fill_(50)
        before = run(model, batch)
        batch.video[:, 1:], batch.text[:, 1:] = 0, 0
        after = run(model, batch)
    torch.testing.assert_close(after.class_logits, before.class_logits)
    torch.testing.assert_close(after.query, before.query)
    with torch.no_grad():
        model.refine.gates[0] = -50
        assert not torch.allclose(run(model, batch).class_logits, before.class_logits)


def test_before_training_the_query_changes_clips_only_through_the_decoder() -> None:
    model = R2Tuning(6, 5, 4, dim=16, heads=2)
    assert not model.refine.scales.any()
    assert not model.refine.gates.any()
