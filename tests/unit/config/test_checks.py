"""Heads whose loss weight is 0 are excluded from scores, matching and prediction."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from helpers.composed import composed
from helpers.corpus import Corpus
from sdst.cli import main
from sdst.config.checks import check_options, resolve_auto_options
from sdst.config.compose import compose
from sdst.errors import UserError
from sdst.training.run_folder import BEST

Train = Callable[..., Path]


@pytest.mark.parametrize(
    ("off", "score", "match"), [([], "both", 1.0), (["act"], "class", 1.0), (["cls"], "actionness", 0.0)]
)
def test_auto_options_exclude_untrained_heads_from_score_and_matching(
    off: list[str], score: str, match: float
) -> None:
    config = composed(*(f"loss.weights.{term}=0" for term in off))
    resolve_auto_options(config)
    assert config.decode.score == score
    assert config.loss.match_weights == {"cls": match, "l1": 1, "iou": 1}
    chosen = compose([f"decode.score={score}", *(f"loss.weights.{term}=0" for term in off)])
    resolve_auto_options(chosen)
    assert chosen.decode.score == score


@pytest.mark.parametrize("score", ["class", "actionness"])
def test_score_may_omit_a_trained_head(score: str) -> None:
    config = compose([f"decode.score={score}"])
    resolve_auto_options(config)
    assert config.decode.score == score
    assert config.loss.match_weights.cls == 1


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["loss.weights.cls=0", "loss.weights.act=0"], "loss.weights: cls or act"),
        (["loss.weights.act=0", "decode.score=both"], "decode.score: both .*loss.weights.act"),
        (["loss.weights.cls=0", "decode.score=class"], "decode.score: class .*loss.weights.cls"),
    ],
)
def test_auto_options_refuse_an_untrained_score(overrides: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        resolve_auto_options(compose(overrides))


def test_model_without_actionness_head_ranks_by_class_and_refuses_actionness_loss() -> None:
    config = composed("model=r2_tuning")
    check_options(config)
    resolve_auto_options(config)
    assert config.decode.score == "class"
    for overrides in (["loss.weights.act=1"], ["moments=queries"]):
        with pytest.raises(
            UserError, match=r"loss\.weights\.act must be 0 because this model has no actionness head"
        ):
            check_options(compose(["model=r2_tuning", *overrides]))
    with pytest.raises(UserError, match=r"decode\.score: both"):
        resolve_auto_options(compose(["model=r2_tuning", "decode.score=both"]))


def spoil(checkpoint: Path, out: Path, prefix: str) -> Path:
    """Write the checkpoint with random weights in one part of the model; return ``out``."""
    stored = torch.load(checkpoint, weights_only=True)
    spoilt = [name for name in stored["state_dict"] if name.startswith(f"model.{prefix}")]
    assert spoilt
    for name in spoilt:
        stored["state_dict"][name] = torch.randn_like(stored["state_dict"][name])
    torch.save(stored, out)
    return out


@pytest.mark.parametrize(
    ("off", "untrained", "trained"), [("act", "actionness", "classify"), ("cls", "classify", "actionness")]
)
def test_predict_ignores_untrained_heads(
    train: Train, corpus: Corpus, tmp_path: Path, off: str, untrained: str, trained: str
) -> None:
    options = [f"loss.weights.{off}=0", "trainer.max_epochs=1", "data.annotations.test=null"]
    run_dir = train(tmp_path / "run", *options)
    stored = torch.load(run_dir / BEST, weights_only=True)["sdst"]["config"]
    assert stored == yaml.safe_load((run_dir / "config.yaml").read_text())
    assert stored["decode"]["score"] == {"act": "class", "cls": "actionness"}[off]

    def predict(checkpoint: Path) -> list[dict[str, object]]:
        out = tmp_path / "out.jsonl"
        files = ["--features", str(corpus.features), "--annotations", str(corpus.paths["val"])]
        assert main(["predict", "--checkpoint", str(checkpoint), *files, "--out", str(out)]) == 0
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        return sorted(rows, key=lambda row: row["qid"])

    submission = (run_dir / "val_submission.jsonl").read_text().splitlines()
    expected = sorted((json.loads(line) for line in submission), key=lambda row: row["qid"])
    assert predict(run_dir / BEST) == expected
    assert predict(spoil(run_dir / BEST, tmp_path / "untrained.ckpt", untrained)) == expected
    assert predict(spoil(run_dir / BEST, tmp_path / "trained.ckpt", trained)) != expected
