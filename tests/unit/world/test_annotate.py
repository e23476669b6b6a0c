"""Queries, saliency and captions describe what the scene shows."""

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.world_scenes import act, actor, meaning, scene
from sdst.data.annotations import read_annotations
from sdst.world.annotate import annotate, clip_qualities, find_moments, visible_facts
from sdst.world.draw import draw_scene
from sdst.world.grammar import Fact
from sdst.world.scene import Pillar

MOST = 6  # queries of a video


@pytest.mark.parametrize("held_out", [False, True])
def test_rows_can_be_read_and_give_exactly_the_times_at_which_their_sentence_is_true(tmp_path, held_out):
    rows, scenes = [], {}
    for seed in range(25):
        rng = np.random.default_rng(seed)
        drawn = draw_scene(f"v{seed}", held_out=held_out, rng=rng)
        scenes[drawn.vid] = drawn
        made = annotate(drawn, most=MOST, held_out=held_out, rng=rng)
        assert len(made) <= MOST
        rows += [{"qid": len(rows) + index, **row} for index, row in enumerate(made)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    annotations = read_annotations(path)
    assert not annotations.repairs
    assert len(annotations.records) > 40
    for record, row in zip(annotations.records, rows, strict=True):
        fact = meaning(record.query)
        assert fact.held_out == held_out
        drawn = scenes[record.vid]
        (one,) = (one for one in drawn.actors if (one.colour, one.shape) == (fact.colour, fact.shape))
        clips = [clip for a in one.acts if a.motion == fact.motion for clip in range(a.first, a.end)]
        assert row["relevant_clip_ids"] == clips
        windows = [clip for start, end in row["relevant_windows"] for clip in range(start // 2, end // 2)]
        assert windows == clips
        starts, ends = np.array(row["relevant_windows"]).T
        assert (starts[1:] > ends[:-1]).all()  # neither overlapping nor touching
        assert record.duration == 2 * drawn.num_clips


def test_more_queries_are_added_to_the_same_ones():
    drawn = draw_scene("v", held_out=False, rng=np.random.default_rng(1), grid=(2, 2))
    few, more = (
        annotate(drawn, most=most, held_out=False, rng=np.random.default_rng(2)) for most in (3, 100)
    )
    assert few == more[:3]
    assert len({meaning(row["query"]) for row in more}) == len(more) > 6


def test_no_query_is_about_a_thing_that_is_hidden_throughout_a_moment():
    red = actor(act("up", 64, 64, end=1), act("rest", 64, 64, first=1, end=4))
    blue = actor(act("rest", 64, 64, first=1, end=4), colour="blue", radius=20.0)
    rng = np.random.default_rng(0)
    facts = [red.fact(a) for a in red.acts] + [blue.fact(blue.acts[0])]

    def asked(*actors):
        rows = [
            row
            for held in (False, True)
            for row in annotate(scene(*actors), most=MOST, held_out=held, rng=rng)
        ]
        return {meaning(row["query"]) for row in rows}

    assert asked(red, blue) == {facts[0], facts[2]}
    assert asked(blue, red) == set(facts)


def test_repeated_acts_are_the_moments_of_one_query():
    one = actor(
        act("up", 64, 64, end=1), act("rest", 64, 32, first=1, end=2), act("up", 64, 32, first=2, end=4)
    )
    assert find_moments(scene(one)) == {
        Fact("red", "disc", "up"): [(0, 1), (2, 4)],
        Fact("red", "disc", "rest"): [(1, 2)],
    }


def quality(one, *others, **more) -> np.ndarray:
    """(3,) size, centrality and visibility of a thing in the first clip."""
    return clip_qualities(scene(one, *others, **more))[one.fact(one.acts[0])][0]


def test_qualities_measure_size_centrality_and_visibility():
    central = actor(
        act("rest", 64, 64), nearest=8.5
    )  # in the mean of clip 0 of its usual size, 10 pixels of at most 20
    assert np.allclose(quality(central), [0.5, 1.0, 1.0], atol=0.05)
    assert quality(replace(central, radius=14.0))[0] == pytest.approx(0.7, abs=0.05)
    assert quality(actor(act("rest", 0, 0)))[1] == pytest.approx(0.0, abs=0.01)
    assert quality(actor(act("rest", 64, 0)))[1] == pytest.approx(1 - 0.5**0.5, abs=0.01)


def test_visibility_is_the_share_that_nearer_things_do_not_hide():
    one = actor(act("rest", 1, 1), nearest=8.5)
    other = replace(one, colour="blue", shape="square", radius=20.0)
    assert quality(one, other)[2] == 0
    aside = replace(other, acts=(act("rest", 1 - 17, 1),))  # its edge, 17 pixels off, is at the disc's middle
    assert quality(one, aside)[2] == pytest.approx(0.5, abs=0.06)
    gone = replace(other, acts=(act("rest", 1, 1, first=1, end=4),))
    assert quality(one, gone)[2] == 1
    assert quality(one, pillars=(Pillar(127.0, 4.0, 50),))[2] == pytest.approx(0.75, abs=0.06)
    behind = clip_qualities(scene(replace(other, radius=5.0), one))
    assert behind[one.fact(one.acts[0])][0, 2] == 1  # farther things hide nothing


def test_the_three_annotators_prefer_size_centrality_and_visibility():
    def scores(one, **more):
        rng = np.random.default_rng(0)
        drawn = scene(one, num_clips=30, **more)
        (row,) = annotate(drawn, most=MOST, held_out=one.fact(one.acts[0]).held_out, rng=rng)
        return np.array(row["saliency_scores"])

    def still(**more):
        return actor(act("rest", 40, 64, end=30), nearest=8.5, nearing=30.0, **more)

    usual = scores(still()).mean(axis=0)
    larger = scores(still(radius=14.0)).mean(axis=0) - usual
    aside = scores(replace(still(), acts=(act("rest", 8, 10, end=30),))).mean(axis=0) - usual
    hidden = scores(still(), pillars=(Pillar(33.0, 10.0, 50),)).mean(axis=0) - usual
    assert larger.argmax() == 0
    assert aside.argmin() == 1
    assert hidden.argmin() == 2
    assert larger[0] > 0.5
    assert aside[1] < -0.5
    assert hidden[2] < -0.5
    assert 0 <= scores(still()).min() <= scores(still()).max() <= 4


def test_the_facts_of_a_clip_are_everything_visible_and_nothing_else():
    large = actor(act("rest", 64, 64, end=2), radius=14.0)
    small = actor(act("left", 20, 20, end=3), colour="blue", shape="star")
    hidden = actor(act("rest", 64, 64, end=2), colour="white", radius=6.0)
    facts = [large.fact(large.acts[0]), small.fact(small.acts[0])]
    drawn = scene(hidden, small, large)
    nothing: list[object] = []
    assert visible_facts(drawn) == [facts, facts, facts[1:], *[nothing] * (drawn.num_clips - 3)]
