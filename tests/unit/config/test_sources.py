"""Hydra's sources do no work twice, and what one composition changes never reaches another."""

import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from hydra._internal.sources_registry import SourcesRegistry
from omegaconf import DictConfig, OmegaConf

from sdst.config import sources
from sdst.config.compose import compose, conf_dir, register_schema


def test_a_changed_file_counts_in_the_next_composition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "conf"
    shutil.copytree(conf_dir(), folder)
    monkeypatch.setenv("SDST_CONF", str(folder))
    for levels in (1, 3):
        (folder / "levels/k2.yaml").write_text(f"count: {levels}\n")
        assert compose(["levels=k2"]).levels.count == levels


def test_unchanged_files_are_parsed_once_and_stay_as_they_are_on_disk() -> None:
    def composed() -> DictConfig:
        return compose(["model=lst", "run_dir=run"])

    first = composed()
    text, parsed = OmegaConf.to_yaml(first), sources._parsed.cache_info().misses
    first.model.dim, first.optim.lr = 3, 7.0
    assert OmegaConf.to_yaml(composed()) == text
    assert sources._parsed.cache_info().misses == parsed


def test_copies_of_the_schemas_source_share_the_schemas_but_not_what_they_load() -> None:
    register_schema()
    source = SourcesRegistry.instance().resolve("structured")("schema", "structured://")
    first, second = (deepcopy(source).load_config("schema").config for _ in range(2))
    first.seed = 3
    assert second.seed == 0
