"""The Python interface: the same features and predictions as from files, long videos, refusals."""

import json
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

import sdst
from helpers.shared_data import needs_shared
from sdst.cli import main
from sdst.config.schema import Decoding
from sdst.data.predictions import read_predictions
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.backbone.backbone import load_backbone
from sdst.inference.grounder import EncodedVideo, Grounder, load
from sdst.inference.stored import open_matching_store
from sdst.training import checkpoint
from sdst.types import Output

PLAIN = Decoding(nms="none", sigma=0.5, iou_threshold=0.0, round_to=None, max_moments=None)


@pytest.fixture(scope="module")
def backbone(video_run):
    from helpers.video_run import BACKBONE, BACKBONE_CONFIG

    return load_backbone(BACKBONE, BACKBONE_CONFIG, vocab=video_run.vocab)


@pytest.fixture
def grounder(video_run, backbone):
    return sdst.load(video_run.checkpoint, backbone, device="cpu")


def with_options(video_run, backbone, decoding=PLAIN, **recipe):
    """The trained model with another decoding and a changed recipe."""
    model, _, stored = checkpoint.load(video_run.checkpoint)
    return Grounder(model, decoding, {**stored, **recipe}, backbone, torch.device("cpu"))


@pytest.mark.processes
def test_importing_the_package_does_not_import_torch():
    code = "import sys, sdst; sdst.__version__; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert sdst.load is load
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = sdst.laod


def test_a_grounder_and_a_video_print_as_one_line():
    recipe = {"backbone": "small-world", "video_layers": [9, 10]}
    grounder = Grounder(torch.nn.Identity(), PLAIN, recipe, None, torch.device("cpu"))
    assert repr(grounder) == "Grounder(Identity on cpu, 2 levels, backbone small-world, not loaded)"
    video = EncodedVideo("v", 8.0, np.zeros((2, 4, 3), np.float16))
    assert repr(video) == "EncodedVideo(vid='v', duration=8, features (2, 4, 3))"


@needs_shared
def test_features_equal_those_of_the_feature_file(video_run, grounder):
    store = open_matching_store(video_run.features, grounder.recipe)
    for vid, seconds in {"a": 8.0, "b": 12.0, "c": 9.0}.items():
        video = grounder.encode(video_run.video(vid))
        np.testing.assert_array_equal(video.features, store.video(vid))
        assert video.features.dtype == np.float16
        assert (video.vid, video.duration) == (vid, seconds)
        assert video.features.shape[:2] == (2, (seconds + 1) // 2)


@needs_shared
def test_predictions_equal_those_from_stored_features(video_run, grounder, tmp_path):
    out = tmp_path / "p.jsonl"
    files = ["--features", video_run.features, "--annotations", video_run.folder / "train.jsonl"]
    arguments = ["--checkpoint", video_run.checkpoint, *files, "--out", out]
    assert main(["predict", *map(str, arguments)]) == 0
    stored = [prediction for prediction in read_predictions(out) if prediction.vid == "b"]
    ours = grounder.predict(video_run.video("b"), video_run.queries("b"))
    assert [prediction.qid for prediction in ours] == [0, 1, 2]
    for mine, theirs in zip(ours, stored, strict=True):
        assert (mine.vid, mine.query) == (theirs.vid, theirs.query)
        np.testing.assert_allclose(mine.windows, theirs.windows, rtol=0, atol=1e-6)
        np.testing.assert_allclose(mine.saliency, theirs.saliency, rtol=0, atol=1e-6)
    assert not np.allclose(ours[0].saliency, ours[1].saliency, atol=1e-4)  # the queries do matter


@needs_shared
def test_many_queries_encode_the_video_once(video_run, backbone, grounder, monkeypatch):
    calls = {"vision": 0, "text": 0}
    for name in calls:
        original = getattr(backbone, name)

        def counted(*args, name=name, original=original):
            calls[name] += 1
            return original(*args)

        monkeypatch.setattr(backbone, name, counted)
    predictions = grounder.predict(str(video_run.video("a")), ["dog"] * 40)
    assert (len(predictions), calls) == (40, {"vision": 1, "text": 1})
    video = grounder.encode(video_run.video("a"))
    grounder.predict(video, ["cat"])
    grounder.predict(video, ["dog"])
    assert calls == {"vision": 2, "text": 3}
    assert grounder.predict(video, []) == []


@needs_shared
def test_the_recipe_states_the_longest_training_video(grounder):
    assert grounder.recipe["max_clips"] == 6  # 12 s


@needs_shared
def test_a_long_video_is_the_union_of_its_parts(video_run, backbone):
    whole = with_options(video_run, backbone, max_clips=6)
    parted = with_options(video_run, backbone, max_clips=4)
    # 9 clips for 17.4 s: parts of clips 0-3, 2-5, 4-7 and 5-8, the last one ending at 17.4 s.
    features = np.random.default_rng(0).normal(size=(2, 9, 64)).astype(np.float16)
    long = EncodedVideo("a", 17.4, features)
    queries = ["dog jumps", "red balls"]
    ours = parted.predict(long, queries)

    windows, saliency = [[], []], np.full((2, 4, 9), np.nan)
    for part, start in enumerate((0, 2, 4, 5)):
        seconds = 7.4 if start == 5 else 8.0
        alone = whole.predict(
            replace(long, duration=seconds, features=features[:, start : start + 4]), queries
        )
        for query, prediction in enumerate(alone):
            windows[query].append(prediction.windows + np.array([2 * start, 2 * start, 0]))
            saliency[query, part, start : start + 4] = prediction.saliency
    for query, prediction in enumerate(ours):
        union = np.concatenate(windows[query])
        union = union[np.argsort(-union[:, 2], kind="stable")]
        np.testing.assert_allclose(prediction.windows, union, atol=1e-5)
        np.testing.assert_allclose(prediction.saliency, np.nanmean(saliency[query], axis=0), atol=1e-5)
    assert ours[0].windows[:, 1].max() <= 17.4


class TooWide(torch.nn.Module):
    """Predicts a moment that reaches beyond both ends of its input."""

    def forward(self, video, video_mask, text, text_mask, num_clips):
        size = len(text)
        return Output(
            class_logits=torch.zeros(size, 1, 1),
            references=torch.tensor([0.5, 1.5]).expand(size, 1, 1, 2),
            actionness=torch.ones(size, 1),
            saliency=video[:, 0, :, 0].float().expand(size, -1),
            dense=video,
            query=text,
            video=video,
            text=text,
            initial_references=video,
        )


def test_moments_stay_inside_their_part():
    grounder = Grounder(TooWide(), PLAIN, {"max_clips": 4, "clip_seconds": 2.0}, None, torch.device("cpu"))
    features = np.arange(9, dtype=np.float16).reshape(1, 9, 1)
    long = EncodedVideo("long", 17.4, features)
    (prediction,) = grounder.predict_encoded(long, ["dog"], [np.zeros((1, 2, 1), np.float16)])
    expected = [[0, 8], [4, 12], [8, 16], [10, 17.4]]
    np.testing.assert_allclose(prediction.windows[:, :2], expected, atol=1e-9)
    np.testing.assert_array_equal(prediction.saliency, range(9))


@needs_shared
def test_moments_of_all_parts_suppress_each_other(video_run, backbone):
    features = np.random.default_rng(1).normal(size=(2, 9, 64)).astype(np.float16)
    long = EncodedVideo("a", 18.0, features)
    decodings = (PLAIN, replace(PLAIN, nms="hard"), replace(PLAIN, max_moments=3))
    plain, hard, short = (
        with_options(video_run, backbone, decoding, max_clips=4).predict(long, ["dog"])[0].windows
        for decoding in decodings
    )
    assert (hard[:, 2] > 0).sum() < (plain[:, 2] > 0).sum()
    kept = hard[hard[:, 2] > 0]
    kept = kept[kept[:, 0].argsort()]
    assert (kept[1:, 0] >= kept[:-1, 1]).all()  # none overlap, whichever part they come from
    np.testing.assert_array_equal(short, plain[:3])


@needs_shared
@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("backbone", "other"),
        ("backbone_weights", "0" * 16),
        ("clip_seconds", 1.0),
        ("frames_per_clip", 8),
        ("image_size", 112),
        ("pixel_mean", [0.5, 0.5, 0.5]),
        ("resize", "crop"),
        ("antialias", True),
        ("text_prefix", "a video of "),
        ("new", "another way"),
    ],
)
def test_stored_features_unlike_the_training_features_are_refused(
    video_run, grounder, tmp_path, attribute, value
):
    other = tmp_path / "other.h5"
    other.write_bytes(video_run.features.read_bytes())
    with h5py.File(other, "r+") as file:
        file.attrs[attribute] = value
    with pytest.raises(UserError, match=rf"other\.h5: {attribute} must be .* use the same as in training"):
        open_matching_store(other, grounder.recipe)


@needs_shared
def test_stored_features_that_lack_an_attribute_or_the_pooling_are_refused(video_run, grounder, tmp_path):
    other = tmp_path / "other.h5"
    other.write_bytes(video_run.features.read_bytes())
    with h5py.File(other, "r+") as file:
        del file.attrs["backbone_weights"]
    with pytest.raises(UserError, match=r"backbone_weights must be .* got not stated"):
        open_matching_store(other, grounder.recipe)
    with pytest.raises(UserError, match="/video/avg"):
        open_matching_store(video_run.features, {**grounder.recipe, "pooling": "avg"})


@needs_shared
def test_another_backbone_is_refused(video_run, tmp_path):
    from helpers.video_run import BACKBONE, BACKBONE_CONFIG

    weights = torch.load(BACKBONE, weights_only=True)
    state = next(weights[key] for key in ("module", "model") if key in weights)
    state["vision_encoder.clip_projector.cross_attn.proj.weight"] += 1
    torch.save(weights, tmp_path / "other.pt")
    with pytest.raises(
        UserError, match=r"the backbone: backbone_weights must be .* use the same as in training"
    ):
        load(video_run.checkpoint, tmp_path / "other.pt", backbone_config=BACKBONE_CONFIG)


@needs_shared
def test_a_model_of_imported_or_simulated_features_is_refused(finished, backbone):
    with pytest.raises(UserError, match=r"the backbone: backbone must be simulated .* got internvideo2-"):
        load(finished / "checkpoints" / "best.ckpt", backbone)
    _, _, recipe = checkpoint.load(finished / "checkpoints" / "best.ckpt")
    imported = recipe | {"backbone": backbone.recipe()["backbone"]}
    with pytest.raises(UserError, match=r"backbone_weights must be not stated"):
        Grounder(torch.nn.Identity(), PLAIN, imported, backbone, torch.device("cpu"))


@needs_shared
def test_stored_features_can_be_queried_without_a_backbone(video_run, grounder):
    alone = load(video_run.checkpoint)
    store = open_matching_store(video_run.features, alone.recipe)
    video = EncodedVideo("a", 8.0, store.video("a"))
    texts = [store.text(row["qid"]) for row in video_run.rows if row["vid"] == "a"]
    queries = video_run.queries("a")
    for mine, theirs in zip(
        alone.predict_encoded(video, queries, texts), grounder.predict(video, queries), strict=True
    ):
        np.testing.assert_allclose(mine.windows, theirs.windows, rtol=0, atol=1e-6)
    for call in (lambda: alone.encode(video_run.video("a")), lambda: alone.predict(video, queries)):
        with pytest.raises(UserError, match="no backbone is loaded"):
            call()


@needs_shared
def test_bad_arguments_are_refused(video_run, grounder, tmp_path):
    video = grounder.encode(video_run.video("a"))
    with pytest.raises(UserError, match="query 1 is empty"):
        grounder.predict(video, ["dog", " "])
    with pytest.raises(UserError, match="query 0 holds a lone surrogate"):
        grounder.predict(video, ["\ud800"])
    with pytest.raises(TypeError, match="a list of sentences"):
        grounder.predict(video, "dog")
    with pytest.raises(UserError, match=r"absent\.mp4: is not a file"):
        grounder.predict(tmp_path / "absent.mp4", ["dog"])
    with pytest.raises(UserError, match="device nonsense: cannot be used"):
        load(video_run.checkpoint, device="nonsense")


@needs_shared
def test_the_recipe_is_in_the_run_folder(video_run, backbone):
    facts = json.loads((video_run.folder / "run" / "run.json").read_text())["features"]
    assert facts.items() >= backbone.recipe().items()
    assert (facts["resize"], facts["antialias"]) == ("stretch", False)
    assert FeatureStore(video_run.features).info.extra.items() <= facts.items()
