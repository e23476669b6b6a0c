"""What the page of ``sdst serve`` tells about a model."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette")

from sdst.features.backbone.sizes import SHIPPED
from sdst.serve.about import SMALL_WORLD, describe_model

RECIPE = {"backbone": "internvideo2-1b", "clip_seconds": 2.0, "max_clips": 75}


def describe(checkpoint: Path, **recipe: Any) -> dict[str, Any]:
    return describe_model(checkpoint, SimpleNamespace(recipe=RECIPE | recipe, words=None))  # type: ignore[arg-type]


def test_a_finished_run_is_described_from_its_folder(finished: Path) -> None:
    described = describe(finished / "checkpoints" / "best.ckpt")
    assert described == describe(finished)
    assert described["name"] == "/".join(finished.resolve().parts[-2:])
    assert described["dataset"] == "qvhighlights"
    assert described["longest_seconds"] == 150.0
    metrics = json.loads((finished / "metrics.json").read_text())
    selected = metrics["selected"]
    assert described["metrics"] == {
        "split": selected["split"],
        "selected": selected["metric"],
        "values": metrics["best"][selected["split"]],
    }
    assert described["commit"] == (json.loads((finished / "run.json").read_text())["git"] or {}).get("commit")
    assert described["words"] is None


def test_examples_are_queries_of_the_training(finished: Path) -> None:
    from sdst.data.annotations import read_annotations
    from sdst.training.run_folder import RunFolder

    trained = {
        record.query for record in read_annotations(RunFolder(finished).annotations_path("train")).records
    }
    examples = describe(finished)["examples"]
    assert 0 < len(examples) <= 5
    assert set(examples) <= trained


def test_a_checkpoint_alone_has_a_name_and_no_invented_queries(tmp_path: Path) -> None:
    described = describe(tmp_path / "models" / "other.ckpt")
    assert described["name"] == "models/other.ckpt"
    unknown = ("dataset", "commit", "metrics", "words")
    assert [described[key] for key in unknown] == [None] * len(unknown)
    assert described["examples"] == []


def test_the_small_world_knows_its_words_and_has_examples_of_them(tmp_path: Path) -> None:
    described = describe(tmp_path / "other.ckpt", backbone="small-world")
    words = set(described["words"])
    assert "triangle" in words
    assert not words & {"[PAD]", "-", "."}
    assert described["examples"] == list(SMALL_WORLD)
    assert {word for query in SMALL_WORLD for word in query.lower().rstrip(".").split()} <= words


def test_a_model_that_lists_the_words_of_its_training_is_believed(tmp_path: Path) -> None:
    grounder = SimpleNamespace(recipe=RECIPE, words=frozenset({"dog", "cat"}))
    assert describe_model(tmp_path / "other.ckpt", grounder)["words"] == ["cat", "dog"]  # type: ignore[arg-type]


def test_damaged_files_of_a_run_cost_only_a_warning(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("config.yaml", "metrics.json", "run.json"):
        shutil.copy(finished / name, tmp_path / name)
        (tmp_path / name).write_text("{")
    described = describe(tmp_path)
    assert (described["dataset"], described["metrics"], described["commit"]) == (None, None, None)
    assert len(caplog.records) == 3


def test_unseen_words_are_those_outside_the_vocabulary() -> None:
    pytest.importorskip("tokenizers")
    from sdst.features.backbone.bert import Tokenizer
    from sdst.features.backbone.sizes import read_config

    tokenizer = Tokenizer(SHIPPED["small-world"] / "vocab.txt", read_config("small-world").text)
    assert tokenizer.unknown_words("A red disc moves left.") == ()
    assert tokenizer.unknown_words("A Helicopter and a helicopter, and a Héron") == (
        "helicopter",
        "héron",
    )
