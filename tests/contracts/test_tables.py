"""Reading experiments/*.yaml: results, errors, and that the configuration of every row composes."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

import sdst
from sdst.config.compose import compose, conf_dir, register_schema
from sdst.config.schema import Levels, TrainConfig
from sdst.errors import UserError
from sdst.features.backbone.sizes import PRESETS
from sdst.features.simulate import NUM_TEXT_LAYERS, NUM_VIDEO_LAYERS
from sdst.metrics.evaluation import PROTOCOLS
from sdst.sweeps import plan
from sdst.sweeps.tables import SCALES, Column, Job, list_experiments, number, read_experiment

EXPERIMENTS = Path(sdst.__file__).parents[2] / "experiments"

GOOD = """\
title: Attention
source: Tab. 5
selection: not stated
notes: [a doubt]
scales:
  paper: {qvhighlights: [data=qvhighlights], tacos: [data=tacos]}
  laptop: {qvhighlights: [data=world, optim.lr=1e-3]}
columns:
  - title: MR
    dataset: qvhighlights
    split: val
    metrics: {R1@0.5: MR-full-R1@0.5, mAP: MR-full-mAP}
  - title: ""
    dataset: null
    split: null
    metrics: {Size: null}
rows:
  - label: Others
    paper: ["1.50", null, "4.8M"]
    note: misprinted
  - label: Standard
    overrides: [attention=standard, "model.modules=[ca,rdsa]"]
    paper: ["73.16 ± 0.61", "59.76 (+2.84)", "4.10 M"]
  - label: Deep
    overrides: [levels.count=5]
    only: paper
    note: too deep for a laptop
    paper: [null, null, null]
  - label: Ours
    overrides: []
    paper: [null, null, null]
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "tableX.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_reader_returns_rows_columns_and_notes(good: Path) -> None:
    table = read_experiment(good)
    assert (table.name, table.title, table.source, table.selection, table.notes) == (
        "tableX",
        "Attention",
        "Tab. 5",
        "not stated",
        ("a doubt",),
    )
    assert table.columns == (
        Column("MR", "R1@0.5", "MR-full-R1@0.5", "qvhighlights", "val"),
        Column("MR", "mAP", "MR-full-mAP", "qvhighlights", "val"),
        Column("", "Size", None, None, None),
    )
    others, standard, deep, ours = table.rows
    assert (others.label, others.overrides, others.note) == ("Others", None, "misprinted")
    assert others.paper == ("1.50", None, "4.8M")
    assert standard.overrides == ("attention=standard", "model.modules=[ca,rdsa]")
    assert (ours.overrides, ours.note, ours.only) == ((), None, None)
    assert (deep.only, deep.note) == ("paper", "too deep for a laptop")
    assert [[row.is_run_at(scale) for scale in SCALES] for row in table.rows] == [
        [False, False, False],
        [True, True, True],
        [True, True, False],  # the rehearsal has the paper's rows
        [True, True, True],
    ]


def test_jobs_pair_each_runnable_row_with_each_data_set_of_the_scale(good: Path) -> None:
    table = read_experiment(good)
    variant = ("attention=standard", "model.modules=[ca,rdsa]")
    assert table.jobs("laptop") == [
        Job("Standard", "qvhighlights", ("data=world", "optim.lr=1e-3", *variant)),
        Job("Ours", "qvhighlights", ("data=world", "optim.lr=1e-3")),
    ]
    assert [(job.label, job.dataset, job.overrides[0]) for job in table.jobs("paper")] == [
        ("Standard", "qvhighlights", "data=qvhighlights"),
        ("Standard", "tacos", "data=tacos"),
        ("Deep", "qvhighlights", "data=qvhighlights"),
        ("Deep", "tacos", "data=tacos"),
        ("Ours", "qvhighlights", "data=qvhighlights"),
        ("Ours", "tacos", "data=tacos"),
    ]
    assert table.jobs("rehearsal") == [
        replace(job, overrides=(job.overrides[0], "scale=rehearsal", *job.overrides[1:]))
        for job in table.jobs("paper")
    ]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("71.00", 71),
        ("9", 9),
        ("4.8M", 4.8),
        ("4.10 M", 4.1),
        ("73.16 ± 0.61", 73.16),
        ("18.38 (+0.74)", 18.38),
    ],
)
def test_number_parses_a_published_cell(cell: str, value: float) -> None:
    assert number(cell) == value
    assert number(None) is None


BAD = {  # old text, new text, texts that the message must contain
    "not YAML": ("title: Attention", "title: [", ["not the YAML"]),
    "a repeated key": ("title: Attention", "title: a\ntitle: b", ["title"]),
    "an unknown key": ("title: Attention", "titel: Attention", ["unknown key 'titel'", "title"]),
    "a missing key": ("source: Tab. 5\n", "", ["'source' is missing"]),
    "an empty text": ("source: Tab. 5", 'source: ""', ["source"]),
    "a number for a text": ("source: Tab. 5", "source: 5", ["source", "5"]),
    "notes that are text": ("[a doubt]", "a doubt", ["notes", "'a doubt'"]),
    "a data set of the rehearsal alone": (
        "  laptop: {",
        "  rehearsal: {toy: [data=world]}\n  laptop: {",
        ["scales.rehearsal", "'toy'"],
    ),
    "an unknown scale": ("laptop:", "phone:", ["scales", "unknown key 'phone'", "laptop"]),
    "a data set without overrides": (
        "{qvhighlights: [data=qvhighlights], ",
        "{",
        ["scales.paper", "'qvhighlights'"],
    ),
    "a data set of the laptop alone": (
        "{qvhighlights: [data=world",
        "{toy: [data=world",
        ["scales.laptop", "'toy'"],
    ),
    "an override without a value": ("data=tacos", "data", ["scales.paper.tacos", "'data'", "key=value"]),
    "an override with a blank": ("[ca,rdsa]", "[ca, rdsa]", ["rows[1].overrides", "spaces"]),
    "overrides that are text": (
        "overrides: []",
        "overrides: model.dim=8",
        ["rows[3].overrides", "must be a list"],
    ),
    "an unknown split": ("split: val", "split: train", ["columns[0].split", "'train'"]),
    "no split": ("    split: val\n", "", ["columns[0]", "'split'"]),
    "metrics that are a list": ("{Size: null}", "[Size]", ["columns[1].metrics", "mapping"]),
    "a key that is a number": ("Size: null", "Size: 3", ["columns[1].metrics.Size", "3"]),
    "a header that is a number": ("Size: null", "3: null", ["columns[1].metrics"]),
    "a number without quotes": ('"1.50"', "1.50", ["rows[0].paper[0]", "1.5", "quotes"]),
    "a cell without a number": ('"1.50"', '"–"', ["rows[0].paper[0]", "'–'", "null"]),
    "a cell too few": ('"1.50", null', '"1.50"', ["rows[0].paper", "3 cells", "got 2"]),
    "a label that is a number": ("label: Ours", "label: 1", ["rows[3].label", "1", "quotes"]),
    "two rows of one name": ("label: Ours", "label: Others", ["rows", "4 rows with 3 labels"]),
    "an unknown key in a row": ("note: misprinted", "nota: misprinted", ["rows[0]", "'nota'"]),
    "a row at an unknown scale alone": ("only: paper", "only: phone", ["rows[2].only", "'phone'", "laptop"]),
    "a row at one scale without a reason": (
        "    note: too deep for a laptop\n",
        "",
        ["rows[2].only", "note"],
    ),
    "nothing to run at one scale": ("    overrides: [levels.count=5]\n", "", ["rows[2].only", "overrides"]),
    "an empty note": ("note: misprinted", "note: null", ["rows[0].note"]),
}


@pytest.mark.parametrize("case", BAD)
def test_reader_refuses_an_invalid_file_in_one_line(good: Path, case: str) -> None:
    old, new, named = BAD[case]
    assert GOOD.count(old) == 1
    good.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_experiment(good)
    message = str(caught.value)
    assert message.startswith(f"{good}: ")
    assert "\n" not in message
    for part in named:
        assert part in message


@pytest.mark.parametrize("text", ["", "- a", "just text", "rows: []"])
def test_reader_refuses_a_file_that_is_not_an_experiment(good: Path, text: str) -> None:
    good.write_text(text)
    with pytest.raises(UserError, match=r"tableX\.yaml: "):
        read_experiment(good)


def test_reader_refuses_an_experiment_without_rows(good: Path) -> None:
    good.write_text(GOOD.partition("rows:")[0] + "rows: []\n", encoding="utf-8")
    with pytest.raises(UserError, match="got 0 rows"):
        read_experiment(good)


def test_reader_refuses_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        read_experiment(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"title: \xff\xfe")
    with pytest.raises(UserError, match=r"bytes\.yaml: must be UTF-8 text"):
        read_experiment(tmp_path / "bytes.yaml")


def test_list_experiments_finds_yaml_files_and_refuses_a_missing_folder(good: Path, tmp_path: Path) -> None:
    (tmp_path / "figure9.yaml").touch()
    (tmp_path / "notes.txt").touch()
    assert list_experiments(tmp_path) == [tmp_path / "figure9.yaml", good]
    with pytest.raises(UserError, match="no YAML file"):
        list_experiments(tmp_path / "nowhere")


REHEARSED = {
    "table3",
    "table5",
    *(path.stem.partition("_")[0] for path in conf_dir().rglob("*_on_rehearsal.yaml")),
}
JOBS = [
    pytest.param(path.stem, scale, id=f"{path.stem}-{scale}")
    for path in list_experiments(EXPERIMENTS)
    for scale in SCALES
    # The rehearsal trains the paper's rows, so the tables with files of their own for it, and two others, are enough.
    if scale != "rehearsal" or path.stem in REHEARSED
    if read_experiment(path).jobs(scale)
]


DEFAULTS = ("scale=paper", "data=qvhighlights")


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return compose(overrides)


def composed_once(overrides: tuple[str, ...]) -> DictConfig:
    """Configuration of these overrides, cached because tables share jobs. Read only."""
    return _composed(tuple(override for override in overrides if override not in DEFAULTS))


def test_the_cache_leaves_out_defaults_only() -> None:
    for choice in DEFAULTS:
        assert essence(compose([choice])) == essence(compose())


def composed(name: str, scale: str) -> dict[Job, DictConfig]:
    """Configuration of every job."""
    jobs = read_experiment(EXPERIMENTS / f"{name}.yaml").jobs(scale)
    return {job: composed_once(job.overrides) for job in jobs}


@cache
def _essence(overrides: tuple[str, ...]) -> str:
    return essence(composed_once(overrides))


def essences(name: str, scale: str) -> dict[Job, str]:
    """What every job depends on, see ``essence``."""
    return {job: _essence(job.overrides) for job in composed(name, scale)}


@pytest.mark.parametrize(("name", "scale"), JOBS)
def test_jobs_of_a_table_compose_to_different_configurations(name: str, scale: str) -> None:
    found = essences(name, scale)
    assert len(set(found.values())) == len(found)


PARTS = [part for part in TrainConfig.__dataclass_fields__ if part != "run_dir"]


def essence(config: DictConfig) -> str:
    """Everything a run depends on except the time in its folder's name, in a canonical spelling."""
    values: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, PARTS), resolve=True)
    return json.dumps(values, sort_keys=True)


class ComposerWithoutFiles(plan.Composer):
    """Identifies jobs by their whole configuration, because there are no features to read."""

    def job(self, overrides: Sequence[str]) -> plan.Job:
        # The test below checks that the experiment itself adds nothing.
        own = tuple(text for text in overrides if not text.startswith("experiment="))
        return plan.Job(tuple(overrides), composed_once(own), {}, _essence(own))


@pytest.mark.parametrize(("name", "scale"), JOBS)
def test_experiment_trains_exactly_the_rows_of_its_table(name: str, scale: str) -> None:
    arguments = [f"experiment={name}", f"scale={scale}"]
    register_schema()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        multirun = hydra.compose("train", arguments, return_hydra_config=True)
        composer = ComposerWithoutFiles(GlobalHydra.instance().config_loader(), multirun)
    sweeper = multirun.hydra.sweeper
    assert multirun.hydra.mode.name == "MULTIRUN"
    assert (sweeper._target_, sweeper.scale) == ("hydra_plugins.sdst_jobs.JobSweeper", scale)
    jobs, refused = plan.product_jobs(composer, sweeper.params, sweeper.jobs, arguments)
    assert not refused
    assert essence(multirun) == essence(composed_once((f"scale={scale}",)))
    rows = {found: job.label for job, found in essences(name, scale).items()}
    product = {job.identity: " ".join(job.overrides) for job in jobs}
    assert [text for key, text in product.items() if key not in rows] == []
    assert [label for key, label in rows.items() if key not in product] == []


def test_every_table_with_rows_to_train_has_an_experiment() -> None:
    folder = conf_dir()
    experiments = {path.stem for path in (folder / "experiment").glob("*.yaml")}
    assert experiments == {case.values[0] for case in JOBS}
    at_scale = {path.stem for path in (folder / "experiment_on_scale").glob("*.yaml")}
    assert at_scale <= {f"{name}_on_{scale}" for name, scale in (case.values for case in JOBS)}


AT_LAPTOP_SCALE = [name for name, scale in (case.values for case in JOBS) if scale == "laptop"]


@pytest.mark.parametrize("name", AT_LAPTOP_SCALE)
def test_small_world_features_serve_every_laptop_row(name: str) -> None:
    makefile = (EXPERIMENTS.parent / "Makefile").read_text()
    ((*layers, poolings),) = re.findall(
        r"--video-layers ([\d,]+) --text-layers ([\d,]+) \\\n\t+--pooling ([a-z ]+) --out", makefile
    )
    video, text = ([int(number) for number in numbers.split(",")] for numbers in layers)
    sizes = PRESETS["small-world"]
    assert (max(video), max(text)) == (sizes.vision.depth, sizes.text.num_hidden_layers)
    columns = read_experiment(EXPERIMENTS / f"{name}.yaml").columns
    for config in composed(name, "laptop").values():
        levels = Levels(**config.levels)
        assert set(levels.video_layers(video)) <= set(video)
        assert set(levels.text_layers(text)) <= set(text)
        assert config.data.pooling in poolings.split()
        protocol = PROTOCOLS[config.data.name]
        if any(column.key == "MR-full-mIoU" for column in columns):
            assert protocol.mean_iou
        if any(str(column.key).startswith("HL-") for column in columns):
            assert protocol.highlights


@pytest.mark.parametrize(
    "name", [name for name, scale in (case.values for case in JOBS) if scale == "rehearsal"]
)
def test_simulated_features_serve_every_row_of_the_rehearsal(name: str) -> None:
    makefile = (EXPERIMENTS.parent / "Makefile").read_text().replace("\\\n", "")
    ((written, poolings),) = re.findall(
        r"features simulate .*--levels (\d+) .*--pooling ([a-z ]+) --", makefile
    )
    video, text = (
        range(depth - int(written) + 1, depth + 1) for depth in (NUM_VIDEO_LAYERS, NUM_TEXT_LAYERS)
    )
    for job, config in composed(name, "rehearsal").items():
        levels = Levels(**config.levels)
        assert set(levels.video_layers(video)) <= set(video)
        assert set(levels.text_layers(text)) <= set(text)
        assert config.data.name == job.dataset
        assert config.data.pooling in poolings.split()
        assert config.data.features == f"data/features/{job.dataset}-simulated.h5"
        assert (config.model.dim, config.trainer.max_epochs) == (128, 12)


def test_laptop_tables_share_the_default_sdst_job() -> None:
    wanted = OmegaConf.to_yaml(compose(["scale=laptop"]))
    for name in AT_LAPTOP_SCALE:
        rows = {row.label: row for row in read_experiment(EXPERIMENTS / f"{name}.yaml").rows}
        configs = composed(name, "laptop")
        (itself,) = (config for job, config in configs.items() if rows[job.label].overrides == ())
        assert OmegaConf.to_yaml(itself) == wanted
