"""The words of a run: which choices and overrides say what it is."""

from sdst.config.words import stored_words, words


def test_choices_that_follow_from_others_are_left_out_unless_typed() -> None:
    choices = {
        "model": "qd_detr",
        "moments": "detr",
        "recipe": "common",
        "recipe_on_model": "common_qd_detr_on_world",
        "moments_on_data": "detr_on_world",
    }
    assert stored_words(choices, ["seed=1"]) == {"model": "qd_detr", "recipe": "common", "seed": "1"}
    assert stored_words(choices, ["moments=points"])["moments"] == "points"


def test_the_last_override_of_an_option_counts_and_places_are_left_out() -> None:
    assert words(["seed=1", "run_dir=here", "logger=wandb", "seed=2"]) == {"seed": "2"}
