"""Scenes: positions of things, scene files, and random scenes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import ks_2samp

from helpers.world_scenes import act, actor, scene
from sdst.errors import UserError
from sdst.world.draw import LENGTHS, NUM_CLIPS, draw_scene
from sdst.world.grammar import MOTIONS, OPPOSITES
from sdst.world.scene import CLIP_SECONDS, SIDE, actor_states, displacement, read_scene


def drawn(count: int, held_out: bool = False) -> list:
    return [draw_scene("v", held_out=held_out, rng=np.random.default_rng(seed)) for seed in range(count)]


AFTER_TWO_SECONDS = {
    "left": (-32.0, 0.0),
    "right": (32.0, 0.0),
    "up": (0.0, -32.0),
    "down": (0.0, 32.0),
    "rest": (0.0, 0.0),
}


@pytest.mark.parametrize("motion", AFTER_TWO_SECONDS)
def test_straight_motions_go_in_their_direction(motion):
    x, y, scale = displacement(act(motion, 0, 0), np.array([2.0]))
    assert (x[0], y[0], scale[0]) == (*AFTER_TWO_SECONDS[motion], 1.0)


def test_clockwise_circles_turn_clockwise_with_y_pointing_down():
    # From the rightmost point (phase 0) a clock's hand goes down, the other way goes up.
    # A turn takes three seconds; the circle's radius is 14 pixels.
    clockwise = displacement(act("clockwise", 0, 0), np.array([0.75, 3.0]))
    counter = displacement(act("counterclockwise", 0, 0), np.array([0.75, 3.0]))
    assert np.allclose(clockwise[:2], [[-14, 0], [14, 0]])
    assert np.allclose(counter[:2], [[-14, 0], [-14, 0]])


def test_bounce_shake_and_pulse_do_not_move_away():
    times = np.linspace(0, 60, 5000)
    for motion, part in (("bounce", 1), ("shake", 0), ("pulse", 2)):
        moved = displacement(act(motion, 0, 0), times)
        assert np.ptp(moved[part]) > 0.5
        assert [np.ptp(other) for index, other in enumerate(moved) if index != part] == [0.0, 0.0]
    assert displacement(act("bounce", 0, 0), times)[1].max() <= 0  # never below the ground


def test_an_unknown_motion_is_refused():
    with pytest.raises(ValueError, match="teleport"):
        displacement(act("teleport", 0, 0), np.array([1.0]))


def test_positions_wrap_around_and_things_are_absent_between_acts():
    one = actor(act("left", 10, 20, first=1, end=3))
    states = actor_states(one, np.array([1.9, 2.0, 3.0, 5.9, 6.0]))
    assert states.present.tolist() == [False, True, True, True, False]
    assert np.allclose(states.x[1:4], [10, SIDE - 6, 10 - 16 * 3.9 + SIDE])


def test_things_look_largest_when_they_are_nearest():
    states = actor_states(actor(act("rest", 0, 0), nearest=3.0, nearing=8.0), np.array([3.0, 5.0, 7.0]))
    assert np.allclose(states.radius, [13.0, 10.0, 7.0])


def test_a_scene_read_from_its_file_equals_the_written_scene(tmp_path):
    for written in drawn(3):
        path = tmp_path / "scene.json"
        path.write_text(written.to_json())
        assert read_scene(path) == written


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"actors": [{"rgb": 1}]}', scene().to_json().replace("vid", "v")]
)
def test_a_file_that_does_not_describe_a_scene_is_refused(tmp_path, text):
    path = tmp_path / "scene.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"scene\.json"):
        read_scene(path)
    with pytest.raises(UserError, match="absent"):
        read_scene(tmp_path / "absent.json")


def test_acts_follow_each_other_without_a_jump_or_a_repeated_motion():
    followed = 0
    for each in drawn(20):
        assert NUM_CLIPS[0] <= each.num_clips <= NUM_CLIPS[1]
        for one in each.actors:
            assert all(0 <= a.first < a.end <= each.num_clips for a in one.acts)
            for before, after in pairwise(one.acts):
                assert before.end <= after.first
                if before.end == after.first:
                    assert before.motion != after.motion
                    dx, dy, _ = displacement(
                        before, np.array([(before.end - before.first) * float(CLIP_SECONDS)])
                    )
                    away = (
                        np.array([before.x + dx[0] - after.x, before.y + dy[0] - after.y]) + 64
                    ) % SIDE - 64
                    assert np.abs(away).max() < 0.01
                    followed += 1
    assert followed > 100


def test_every_thing_shares_its_colour_or_its_shape_with_another():
    sizes = set()
    for each in drawn(40):
        looks = {(one.colour, one.shape) for one in each.actors}
        assert len(looks) == len(each.actors)
        sizes.add(len(looks))
        for colour, shape in looks:
            same_colour = [look for look in looks if look[0] == colour and look[1] != shape]
            same_shape = [look for look in looks if look[0] != colour and look[1] == shape]
            assert same_colour or same_shape
            assert len(looks) < 4 or (same_colour and same_shape)
    assert sizes == {2, 4}


def test_only_scenes_outside_training_show_held_out_combinations():
    def held_out(each):
        return [one.fact(a).held_out for one in each.actors for a in one.acts]

    assert not any(any(held_out(each)) for each in drawn(60))
    assert all(any(held_out(each)) for each in drawn(60, held_out=True))


def test_acts_of_all_lengths_and_all_motions_occur():
    acts = [a for each in drawn(60) for one in each.actors for a in one.acts]
    lengths = np.array([a.end - a.first for a in acts])
    for shortest, longest in LENGTHS:
        assert ((shortest <= lengths) & (lengths <= longest)).mean() > 0.1
    assert {a.motion for a in acts} == set(MOTIONS)


@pytest.mark.parametrize("motion", [motion for motion in OPPOSITES if motion < OPPOSITES[motion]])
def test_position_and_size_of_a_thing_do_not_depend_on_its_direction(motion):
    looks: dict[str, list] = {motion: [], OPPOSITES[motion]: []}
    rng = np.random.default_rng(0)
    for each in drawn(600):
        for one in each.actors:
            for a in one.acts:
                if a.motion in looks:
                    time = rng.uniform(a.first, a.end, 1) * CLIP_SECONDS
                    state = actor_states(replace(one, acts=(a,)), time)
                    looks[a.motion].append([state.x[0], state.y[0], state.radius[0]])
    one_way, other_way = (np.array(values) for values in looks.values())
    assert min(len(one_way), len(other_way)) > 300
    assert [ks_2samp(a, b).pvalue > 0.001 for a, b in zip(one_way.T, other_way.T, strict=True)] == [True] * 3
