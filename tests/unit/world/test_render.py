"""Pictures show the scene, a single picture does not show a direction, and files are the same every time."""

import errno
from dataclasses import replace

import numpy as np
import pytest

av = pytest.importorskip("av")

from helpers.world_scenes import act, actor, scene
from sdst.errors import UserError
from sdst.features.video import ClipSpec, VideoReader
from sdst.world import render as rendering
from sdst.world.draw import RGB, draw_scene
from sdst.world.grammar import COLOURS, OPPOSITES, SHAPES
from sdst.world.render import FRAME_RATE, render, write_video
from sdst.world.scene import (
    CLIP_SECONDS,
    SIDE,
    Act,
    Actor,
    Background,
    Pillar,
    Scene,
    displacement,
)


def reds(picture: np.ndarray) -> np.ndarray:
    """Where a picture shows the red actor of ``world_scenes``."""
    return (picture[..., 0] > 180) & (picture[..., 1] < 60)


def centre(picture: np.ndarray) -> np.ndarray:
    """Return the (x, y) centre of the red pixels."""
    rows, columns = np.nonzero(reds(picture))
    return np.array([columns.mean(), rows.mean()])


def played_backwards(forwards: Scene) -> Scene:
    """Return the scene whose pictures are those of ``forwards`` in reverse, if all its motions have opposites."""

    def reversed_act(a: Act) -> Act:
        seconds = (a.end - a.first) * CLIP_SECONDS
        dx, dy, _ = displacement(a, np.array([float(seconds)]))
        turned = 2 * np.pi * a.pace * seconds / 3.0
        phase = a.phase + {"clockwise": turned, "counterclockwise": -turned}.get(a.motion, 0.0)
        first, end = forwards.num_clips - a.end, forwards.num_clips - a.first
        return replace(
            a, first=first, end=end, motion=OPPOSITES[a.motion], x=a.x + dx[0], y=a.y + dy[0], phase=phase
        )

    def reversed_actor(one: Actor) -> Actor:
        acts = tuple(reversed_act(a) for a in reversed(one.acts))
        return replace(one, nearest=forwards.duration - one.nearest, acts=acts)

    back: Background = forwards.background
    return replace(
        forwards,
        background=replace(
            back,
            x=back.x + back.vx * forwards.duration,
            y=back.y + back.vy * forwards.duration,
            vx=-back.vx,
            vy=-back.vy,
        ),
        camera=replace(forwards.camera, turn=forwards.duration - forwards.camera.turn),
        actors=tuple(reversed_actor(one) for one in forwards.actors),
    )


@pytest.mark.parametrize("seed", range(5))
def test_opposite_motions_differ_only_in_the_order_of_pictures(seed):
    drawn = draw_scene("v", held_out=False, rng=np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    far, near = drawn.actors[0], drawn.actors[-1]
    motions = rng.permutation(list(OPPOSITES))[:3]
    acts = tuple(act(m, 20.3 * i, 31.7, first=2 * i, end=2 * i + 2, phase=1.1) for i, m in enumerate(motions))
    forwards = replace(drawn, num_clips=6, actors=(replace(far, acts=acts), replace(near, acts=acts[1:])))
    backwards = played_backwards(forwards)
    facts = [[one.fact(a) for a in one.acts] for one in forwards.actors]
    opposite = [[one.fact(a) for a in reversed(one.acts)] for one in backwards.actors]
    assert opposite == [[replace(fact, motion=OPPOSITES[fact.motion]) for fact in row] for row in facts]
    times = (np.arange(48) + 0.5) / 4
    shown, mirrored = render(forwards, times), render(backwards, times)[::-1]
    assert np.abs(shown.astype(int) - mirrored).max() <= 1
    assert np.abs(shown.astype(int) - mirrored[::-1]).max() > 50  # in the other order they differ


@pytest.mark.parametrize(
    ("motion", "step"),
    [("left", (-8, 0)), ("right", (8, 0)), ("up", (0, -8)), ("down", (0, 8)), ("rest", (0, 0))],
)
def test_things_move_in_the_direction_of_their_motion(motion, step):
    early, late = render(scene(actor(act(motion, 60, 64))), np.array([1.0, 1.5]))
    assert np.allclose(centre(late) - centre(early), step, atol=0.3)


def test_a_pulse_changes_the_size():
    small, large = render(scene(actor(act("pulse", 64, 64))), np.array([0.975, 0.325]))
    assert reds(large).sum() > 4 * reds(small).sum() > 0


def test_a_thing_that_leaves_on_one_side_enters_on_the_other():
    (picture,) = render(scene(actor(act("rest", 0, 64), nearest=7.5)), np.zeros(1))
    assert reds(picture)[64, :9].all()
    assert reds(picture)[64, -9:].all()
    assert reds(picture).sum() == pytest.approx(np.pi * 100, rel=0.1)


def test_an_absent_thing_is_not_painted():
    pictures = render(scene(actor(act("rest", 64, 64, first=1, end=2))), np.array([1.9, 2.1, 4.1]))
    assert [bool(reds(picture).any()) for picture in pictures] == [False, True, False]


def test_nearer_things_and_pillars_hide_farther_things():
    red = actor(act("rest", 64, 64))
    blue = replace(actor(act("rest", 64, 64)), rgb=(0, 0, 220), radius=15.0)
    assert not reds(render(scene(red, blue), np.zeros(1))[0]).any()
    assert reds(render(scene(blue, red), np.zeros(1))[0]).any()
    alone = reds(render(scene(red), np.zeros(1))[0])
    behind = reds(render(scene(red, pillars=(Pillar(64.0, 10.0, 50),)), np.zeros(1))[0])
    assert not behind[:, 60:69].any()
    assert 0 < behind.sum() < alone.sum()


def test_the_camera_moves_everything_and_the_background_also_moves_alone():
    still = scene(actor(act("rest", 64, 64)), pillars=(Pillar(20.0, 10.0, 50),))
    swayed = replace(still, camera=replace(still.camera, x=5.0, y=-3.0))  # at its turn at time 0
    (before,), (after,) = render(still, np.zeros(1)), render(swayed, np.zeros(1))
    assert np.array_equal(np.roll(before, (-3, 5), axis=(0, 1)), after)
    flowing = scene(background=replace(still.background, vx=4.0, vy=2.0))
    before, after = render(flowing, np.array([0.0, 1.0]))
    assert np.array_equal(np.roll(before, (2, 4), axis=(0, 1)), after)


def test_the_shapes_differ_and_none_exceeds_its_radius():
    shown = {
        shape: reds(render(scene(actor(act("rest", 64, 64), shape=shape, nearest=7.5)), np.zeros(1))[0])
        for shape in SHAPES
    }
    rows, columns = np.indices((SIDE, SIDE))
    outside = np.hypot(rows - 64, columns - 64) > 12.5  # a square's corners
    for shape, mask in shown.items():
        assert mask.sum() > 80
        assert not mask[outside].any()
        assert min((mask ^ other).sum() for name, other in shown.items() if name != shape) > 40


def test_every_colour_is_painted_differently():
    assert list(RGB) == list(COLOURS)
    paints = np.array(list(RGB.values()))
    apart = np.linalg.norm(paints[:, None] - paints, axis=-1)
    assert apart[~np.eye(len(paints), dtype=bool)].min() > 80


def test_a_video_has_the_length_and_the_pictures_of_its_scene(tmp_path):
    path = tmp_path / "v.mp4"
    moving = scene(actor(act("right", 20, 64, end=3)), num_clips=3, noise=3.0)
    write_video(moving, path)
    reader = VideoReader(path, ClipSpec(num_frames=4, size=SIDE))
    clips = list(reader)
    assert (len(clips), reader.duration, reader.frames_decoded) == (3, 6.0, 6 * FRAME_RATE)
    shown = np.concatenate([clip.permute(0, 2, 3, 1).numpy() for clip in clips]).astype(int)
    wanted = render(moving, (np.arange(12) + 0.5) / 2).astype(int)
    assert np.abs(shown - wanted).mean() < 5
    assert np.abs(shown - wanted[::-1]).mean() > 5


def test_noise_has_the_strength_of_the_scene(tmp_path):
    sizes = {}
    for noise in (0.0, 12.0):
        write_video(scene(num_clips=1, noise=noise), tmp_path / "v.mp4")
        sizes[noise] = (tmp_path / "v.mp4").stat().st_size
    assert sizes[12.0] > 3 * sizes[0.0]


def test_the_same_scene_gives_the_same_bytes(tmp_path):
    drawn = replace(draw_scene("v", held_out=False, rng=np.random.default_rng(0)), num_clips=4)
    for name in ("one.mp4", "two.mp4"):
        write_video(drawn, tmp_path / name)
    write_video(replace(drawn, seed=drawn.seed + 1), tmp_path / "other.mp4")
    one, two, other = ((tmp_path / name).read_bytes() for name in ("one.mp4", "two.mp4", "other.mp4"))
    assert one == two != other


def test_a_failed_video_leaves_nothing_behind(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot be written"):
        write_video(scene(), tmp_path / "absent" / "v.mp4")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rendering, "render", full)
    with pytest.raises(UserError, match="No space left"):
        write_video(scene(), tmp_path / "v.mp4")
    assert list(tmp_path.iterdir()) == []
