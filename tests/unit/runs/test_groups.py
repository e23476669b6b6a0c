"""Groups of runs that differ in their seed alone, and the options that tell them apart."""

from sdst.runs.groups import grouped
from sdst.runs.row import RunRow


def rows(*words: dict[str, str]) -> list[RunRow]:
    return [RunRow(said, "missing") for said in words]


def test_an_option_that_one_model_lacks_does_not_tell_models_apart() -> None:
    groups = grouped(
        rows(
            {"model": "sdst", "attention": "rdsa", "seed": "0"},
            {"model": "sdst", "attention": "rdsa", "seed": "1"},
            {"model": "qd_detr", "attention": "", "seed": "0"},
        )
    )
    assert [(group.words, len(group.runs)) for group in groups] == [
        ({"model": "sdst"}, 2),
        ({"model": "qd_detr"}, 1),
    ]


def test_an_option_that_some_runs_lack_stays_if_only_it_tells_groups_apart() -> None:
    groups = grouped(rows({"model": "sdst", "note": ""}, {"model": "sdst", "note": "again"}))
    assert [group.words for group in groups] == [{"note": ""}, {"note": "again"}]
