"""The small backbone: its clips show their captions, its losses equal plain loops, its training resumes."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("transformers")

from helpers.forked import server
from sdst.cli import main
from sdst.features.backbone.backbone import load_backbone
from sdst.features.backbone.bert import Tokenizer
from sdst.features.backbone.sizes import PRESETS, SHIPPED
from sdst.features.video import ClipSpec, VideoReader
from sdst.world import captioned, train_backbone
from sdst.world.captioned import FACTS, STREAM, draw_clips, draw_scene_clips, plan_clips
from sdst.world.contrast import DualEncoder, contrastive_loss, motion_loss, retrieval
from sdst.world.draw import draw_scene
from sdst.world.grammar import MOTIONS, vague_sentences
from sdst.world.render import write_video

CONFIG = PRESETS["small-world"]
KNOWN = torch.tensor([not fact.held_out for fact in FACTS])
NUMBER_OF = {fact: number for number, fact in enumerate(FACTS)}


def some_clips(count: int, seed: int) -> torch.Tensor:
    """(count, facts) facts of each clip: one to four known facts."""
    rng = np.random.default_rng(seed)
    shown = torch.zeros(count, len(FACTS), dtype=torch.bool)
    known = KNOWN.nonzero()[:, 0].numpy()
    for row in shown:
        row[rng.choice(known[:40], rng.integers(1, 5), replace=False)] = True
    return shown


# --- clips ---


def test_drawn_clips_equal_those_that_a_video_reader_reads_from_the_same_scene(tmp_path: Path) -> None:
    plan = plan_clips(CONFIG.vision, 1, held_out=False, seed=3)
    clips, shown = draw_scene_clips(plan, 0)
    rng = np.random.default_rng((3, STREAM, 0))
    grid = (1, 1) if rng.random() < captioned.LONE_SHARE else None
    scene = draw_scene("scene-0", held_out=False, rng=rng, grid=grid)
    write_video(scene, tmp_path / "v.mp4")
    spec = ClipSpec(num_frames=CONFIG.vision.num_frames, size=CONFIG.vision.img_size)
    read = np.stack([clip.transpose(0, 1).numpy() for clip in VideoReader(tmp_path / "v.mp4", spec)])
    for clip, facts in zip(clips, shown, strict=True):
        differences = np.abs(read.astype(float) - clip).mean(axis=(1, 2, 3, 4))
        nearest = int(differences.argmin())
        assert differences[nearest] < 10  # noise and compression
        present = {
            NUMBER_OF[actor.fact(act)]
            for actor in scene.actors
            for act in actor.acts
            if act.first <= nearest < act.end
        }
        assert facts.any()
        assert set(np.flatnonzero(facts)) <= present


@pytest.mark.processes
def test_training_clips_never_show_held_out_combinations(tmp_path: Path) -> None:
    known = draw_clips(plan_clips(CONFIG.vision, 4, held_out=False, seed=0), tmp_path / "known", 1)
    assert not known.shown[:, ~KNOWN.numpy()].any()
    assert known.shown.any(axis=1).all()
    assert known.frames.shape == (len(known.shown), 3, 8, 64, 64)
    both = draw_clips(plan_clips(CONFIG.vision, 4, held_out=True, seed=0), tmp_path / "both", 1)
    assert both.shown[:, ~KNOWN.numpy()].any()
    assert both.shown[:, KNOWN.numpy()].any()


@pytest.mark.processes
def test_clips_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_clips(CONFIG.vision, 2, held_out=False, seed=0)
    first = draw_clips(plan, tmp_path, 1)
    monkeypatch.setattr(captioned, "_pool", None)  # to draw again would fail
    second = draw_clips(plan, tmp_path, 1)
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.shown, second.shown)


# --- losses ---


def test_the_contrast_equals_a_plain_loop() -> None:
    shown = some_clips(6, seed=0)
    similarity = torch.randn(6, int(KNOWN.sum()), generator=torch.Generator().manual_seed(0))
    column = {fact: place for place, fact in enumerate(KNOWN.nonzero()[:, 0].tolist())}
    pairs = shown.nonzero().tolist()
    to_sentences = torch.zeros(6)
    to_clips = dict.fromkeys(sorted({fact for _, fact in pairs}), torch.tensor(0.0))
    motions = []
    for clip, fact in pairs:
        row, col = similarity[clip].softmax(0), similarity[:, column[fact]].softmax(0)
        to_sentences[clip] -= row[column[fact]].log() / shown[clip].sum()
        to_clips[fact] = to_clips[fact] - col[clip].log() / shown[:, fact].sum()
        rivals = [
            column[other]
            for other in column
            if (FACTS[other].colour, FACTS[other].shape) == (FACTS[fact].colour, FACTS[fact].shape)
        ]
        motions.append(similarity[clip, rivals].logsumexp(0) - similarity[clip, column[fact]])
    wanted = (to_sentences.mean() + torch.stack(list(to_clips.values())).mean()) / 2 + torch.stack(
        motions
    ).mean()
    assert contrastive_loss(similarity, shown, KNOWN) == pytest.approx(wanted.item(), abs=1e-5)


def test_the_contrast_of_motions_equals_a_plain_loop() -> None:
    shown = some_clips(5, seed=1)
    meanings = torch.tensor([list(MOTIONS).index(motion) for _, motion in vague_sentences()])
    similarity = torch.randn(5, len(meanings), generator=torch.Generator().manual_seed(0))
    wanted = []
    for clip in range(5):
        moves = {list(MOTIONS).index(FACTS[fact].motion) for fact in shown[clip].nonzero()[:, 0].tolist()}
        true = [place for place, motion in enumerate(meanings.tolist()) if motion in moves]
        wanted.append(-similarity[clip].log_softmax(0)[true].mean())
    assert motion_loss(similarity, meanings, shown) == pytest.approx(
        torch.stack(wanted).mean().item(), abs=1e-5
    )


def test_every_parameter_gets_a_gradient_except_those_of_single_pictures_and_the_last_cls() -> None:
    torch.manual_seed(0)
    model = DualEncoder(CONFIG).eval()
    shown = some_clips(3, seed=2)
    clips = model.encode_clips(torch.randint(0, 256, (3, 3, 8, 96, 96), dtype=torch.uint8))
    ids = torch.randint(5, 80, (int(KNOWN.sum()), 9))
    sentences = model.encode_sentences(ids, torch.ones_like(ids, dtype=torch.bool))
    torch.autograd.backward(contrastive_loss(clips @ sentences.T, shown, KNOWN))
    idle = {name for name, tensor in model.named_parameters() if tensor.grad is None or not tensor.grad.any()}
    # One segment type, and one bias that shifts all keys equally: they do not change the softmax.
    assert idle - {"vision_encoder.clip_projector.cross_attn.k_bias"} <= {
        "vision_encoder.img_pos_embed",
        *(name for name in idle if name.endswith("key.bias")),
    }


def test_retrieval_is_perfect_for_true_similarities_and_at_chance_for_random_ones() -> None:
    shown = some_clips(40, seed=3)
    perfect = retrieval(shown.float() + 0.01 * torch.rand(shown.shape), shown, KNOWN)
    assert perfect == {"motion": pytest.approx(100, abs=25), "thing": 100.0, "mAP": 100.0}
    blind = retrieval(torch.rand(shown.shape, generator=torch.Generator().manual_seed(0)), shown, KNOWN)
    assert blind["motion"] < 40
    assert 30 < blind["thing"] < 70


# --- training ---

Run = Callable[..., dict[str, bytes]]


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that draw need not import everything again."""
    context = server()  # before the patch, because it calls get_context itself
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(train_backbone, "BATCH_SIZE", 4)
    monkeypatch.setattr(train_backbone, "NOTE_EVERY", 1)
    monkeypatch.setattr(train_backbone, "KEEP_EVERY", 1)
    monkeypatch.setattr(train_backbone, "TEST_SCENES", 1)

    def train(folder: Path, steps: int = 3) -> dict[str, bytes]:
        options = ["--scenes", "10", "--steps", str(steps), "--workers", "1"]
        assert main(["world", "train-backbone", "--out", str(folder), *options]) == 0
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    return train


@pytest.mark.slow
@pytest.mark.processes
def test_an_interrupted_training_continues_to_the_same_weights(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(tmp_path / "whole")
    step = train_backbone._Training._train_step

    def interrupted(self: train_backbone._Training) -> float:
        if self.step == 2:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(train_backbone._Training, "_train_step", interrupted)
        options = ["--scenes", "10", "--steps", "3", "--workers", "1"]
        assert main(["world", "train-backbone", "--out", str(tmp_path / "two"), *options]) == 130
    assert not (tmp_path / "two" / "weights.safetensors").exists()
    kept = tmp_path / "two" / "state.pt"
    torch.save(torch.load(kept, weights_only=True) | {"seconds": 1000.0}, kept)
    again = run(tmp_path / "two")
    assert again["weights.safetensors"] == whole["weights.safetensors"]
    assert json.loads(again["training.json"])["seconds"] >= 1000  # the time before the interrupt counts
    report = json.loads(whole["training.json"])
    assert [place for place, _ in report["loss"]] == [1, 2, 3]
    assert set(report["retrieval"]) == {"known combinations", "held-out combinations"}
    capsys.readouterr()
    more = ["--scenes", "10", "--steps", "4", "--workers", "1"]
    assert main(["world", "train-backbone", "--out", str(tmp_path / "two"), *more]) == 2
    assert "state.pt: expected a training with" in capsys.readouterr().err
    backbone = load_backbone(
        tmp_path / "two" / "weights.safetensors", "small-world", vocab=tmp_path / "two" / "vocab.txt"
    )
    assert backbone.recipe()["backbone"] == "small-world"


# --- the shipped files ---


def test_the_shipped_weights_belong_to_their_card() -> None:
    folder = SHIPPED["small-world"]
    backbone = load_backbone(None, "small-world")
    report = json.loads((folder / "training.json").read_text())
    assert train_backbone._model_card(report) == (folder / "MODEL_CARD.md").read_text()
    assert all(scores["motion"] > 20 for scores in report["retrieval"].values())  # of ten
    (tokens,) = backbone.text(["A crimson disc drifts to the left."], [1, 8])
    assert tokens.shape == (10, 2, 64)  # CLS, seven words, full stop, SEP
    known = Tokenizer(folder / "vocab.txt", CONFIG.text)([text for text, _ in vague_sentences()])[0]
    assert not (known == train_backbone.SPECIAL_TOKENS.index("[UNK]")).any()
    clips = torch.randn(2, 3, 8, 96, 96)
    assert {
        name: states.shape for name, states in backbone.vision(clips, [2, 12], ["cls", "adaptive"]).items()
    } == {
        "cls": (2, 2, 96),
        "adaptive": (2, 2, 96),
    }
