"""Overrides that hold a path or a name: quoted only where Hydra could not read what was meant."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sdst.config.plain_text import as_typed, readable, unquoted

TEXTS = ["特征.h5", "a b/run #1 (x)", "epoch=3,step=99.h5", "it's.h5", "[x].h5", "{x}.h5", "50%|.h5"]
TEXTS += ["a b c;.h5", "2024_01"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "key", ["run_dir", "data.features", "data.annotations.val", "paths.runs", "+data.features"]
)
def test_any_path_is_read_as_typed_in_a_single_run(key: str, text: str) -> None:
    override = readable(f"{key}={text}", is_multirun=False)
    assert OverridesParser.create().parse_override(override).value() == text


@pytest.mark.parametrize(
    "override",
    [
        "run_dir=${paths.runs}/x",
        "data.features=null",
        "run_dir='a b'",
        "seed=1,2",
        "decode.nms=特",
        "model.dim=[1",
    ],
)
def test_what_hydra_reads_and_what_holds_no_path_stays(override: str) -> None:
    assert readable(override, is_multirun=False) == readable(override, is_multirun=True) == override


def test_in_a_multirun_commas_separate_values() -> None:
    override = readable("data.features=特.h5,a (b).h5", is_multirun=True)
    assert override == "data.features='特.h5','a (b).h5'"
    assert OverridesParser.create().parse_override(override).is_choice_sweep()
    assert readable("data.features=a.h5,b.h5", is_multirun=True) == "data.features=a.h5,b.h5"


@pytest.mark.parametrize("text", ["(x", "a b", "$(ls)", "it's", 'say "x"'])
def test_how_it_should_be_typed_in_a_shell(text: str) -> None:
    (word,) = shlex.split(as_typed(f"model.x={text}"))
    assert OverridesParser.create().parse_override(word).value() == text


def test_quotes_are_removed() -> None:
    assert [unquoted(text) for text in ("'a b'", '"a"', "a'b", "'")] == ["a b", "a", "a'b", "'"]
