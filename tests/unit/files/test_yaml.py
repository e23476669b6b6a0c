"""The fast reader of YAML gives what OmegaConf's own gives."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sdst.errors import UserError
from sdst.files.yaml import read_yaml

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@pytest.mark.parametrize(
    "text",
    [
        "lr: 1e-3\nwarm: 2_000\nhex: 0x1F\nopen: yes\nclosed: 'no'\nday: 2026-01-02\nsixty: 1:30\n",
        "a: {b: [1, 2.0, .5, -3e+2, ~, null, '']}\n",
        "a: ${b}\nb: 1\n",
        "a: !!str 5\nb: ???\n",
        "",
        "a:\n  1: one\n  2.5: two\n",
        "a: .inf\nb: -.INF\n",
        "a: |\n  two\n  lines\nb: >\n  folded\n  text\n",
    ],
)
def test_same_values_as_omegaconf(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert read_yaml(path) == OmegaConf.to_container(OmegaConf.create(text))


@given(st.dictionaries(st.text(min_size=1, max_size=6), TREES, max_size=4))
@example({"0E0": None})
def test_what_yaml_writes_is_read_as_omegaconf_reads_it(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]
) -> None:
    text = yaml.safe_dump(tree)
    path = tmp_path_factory.getbasetemp() / "tree.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        wanted = OmegaConf.to_container(OmegaConf.create(text))
    except Exception:  # of any library below
        wanted = {}
    # Text like 0E0 is written without quotes, and read as a number, which cannot be a name.
    if wanted.keys() == tree.keys():
        assert read_yaml(path) == wanted
    else:
        with pytest.raises(UserError):
            read_yaml(path)


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3\n", "a: {b: 1, b: 2}\n", "a: {~: 1}\n", "a: {? [1] : 2}\n"]
)
def test_repeated_and_nameless_keys_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: not the YAML of a configuration"):
        read_yaml(path)
