"""Which axis of an array counts what: decided from several files, never silently wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdst.errors import UserError
from sdst.features.importers.arrays import Contents
from sdst.features.importers.axes import AXES, decide


def files(*shapes: tuple[int, ...], masks: dict[int, int] | None = None) -> list[Contents]:
    """Files with arrays of these shapes; ``masks``: file -> length of its mask."""
    lengths = masks or {}
    return [
        Contents(
            f"{place}.npz", "", np.zeros(shape), np.ones(lengths[place], bool) if place in lengths else None
        )
        for place, shape in enumerate(shapes)
    ]


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=2, max_size=8).filter(lambda found: len(set(found)) > 1),
    num_layers=st.integers(1, 12),
    width=st.integers(1, 9),
    layers_first=st.booleans(),
    batch=st.booleans(),
)
def test_lengths_vary_and_layers_do_not(lengths, num_layers, width, layers_first, batch):
    shapes = [(num_layers, n, width) if layers_first else (n, num_layers, width) for n in lengths]
    arrays = [
        np.arange(n * num_layers * width, dtype=float).reshape(shape)
        for n, shape in zip(lengths, shapes, strict=True)
    ]
    found = [
        Contents(f"{place}.npy", "", array[None] if batch else array) for place, array in enumerate(arrays)
    ]
    reading = decide("text", found)
    for contents, array, length in zip(found, arrays, lengths, strict=True):
        expected = array.swapaxes(0, 1) if layers_first else array
        assert reading.apply(contents).shape == (length, num_layers, width)
        np.testing.assert_array_equal(reading.apply(contents), expected)


def test_equal_lengths_are_read_as_in_the_layout_or_refused():
    alike = files((5, 12, 8), (5, 12, 8))
    for axes, num_layers in zip(AXES, (5, 12), strict=True):
        assert decide("text", alike, usual_axes=axes, usual_layers=num_layers).num_layers == num_layers
        assert decide("text", alike, axes=axes).num_layers == num_layers
    for layout in (
        {},
        {"usual_axes": AXES[0], "usual_layers": 4},
        {"usual_axes": AXES[1], "usual_layers": 5},
    ):
        with pytest.raises(
            UserError, match=r"5 layers of 12 tokens \(--text-axes layers,tokens\) or 5 tokens in 12"
        ):
            decide("text", alike, **layout)


def test_the_user_decides_before_the_layout():
    reading = decide("text", files((5, 12, 8)), axes=AXES[1], usual_axes=AXES[0], usual_layers=5)
    assert (reading.layers_first, reading.num_layers) == (False, 12)


def test_a_mask_or_named_layers_show_the_axis_of_tokens():
    assert decide("text", files((5, 12, 8), masks={0: 12})).layers_first
    assert not decide("text", files((12, 5, 8), masks={0: 12})).layers_first
    assert decide("text", files((5, 12, 8)), named=5).layers_first


def test_masked_tokens_are_removed():
    contents = Contents("q.npz", "", np.arange(12.0).reshape(4, 3), np.array([True, True, False, True]))
    np.testing.assert_array_equal(decide("text", [contents]).apply(contents)[:, 0], contents.array[[0, 1, 3]])
    short = Contents("q.npz", "", contents.array, contents.mask[:3])
    with pytest.raises(UserError, match=r"attention_mask must have an entry per token \(4\)"):
        decide("text", [contents]).apply(short)


@pytest.mark.parametrize("layers_first", [False, True])
def test_one_layer_among_several_is_refused(layers_first):
    several, one = ((5, 9, 8), (1, 12, 8)) if layers_first else ((9, 5, 8), (12, 1, 8))
    with pytest.raises(UserError, match="all files must have the same layers"):
        decide("text", files(several, several, one))
    with pytest.raises(UserError, match="all files must have the same layers"):
        decide("text", files(several, (9, 8)))


def test_a_file_unlike_those_before_is_refused():
    reading = decide("text", files((5, 9, 8), (5, 7, 8)))
    for shape in ((4, 9, 8), (9, 8), (5, 9, 8, 2)):
        with pytest.raises(UserError, match="all files must have the same layers"):
            reading.apply(files(shape)[0])
    with pytest.raises(UserError, match="7 wide"):
        reading.apply(files((5, 9, 7))[0])


def test_a_leading_axis_of_one_is_a_batch_axis_unless_layers_were_named():
    assert decide("video", files((1, 75, 8))).num_layers == 1
    assert decide("video", files((1, 75, 8)), named=1).apply(files((1, 75, 8))[0]).shape == (75, 1, 8)
    assert decide("video", files((1, 4, 8)), named=4).apply(files((1, 4, 8))[0]).shape == (1, 4, 8)
    assert decide("video", files((1, 4, 8), (3, 4, 8))).apply(files((1, 4, 8))[0]).shape == (1, 4, 8)
    assert decide("text", files((1, 9, 8), (7, 8))).apply(files((1, 9, 8))[0]).shape == (9, 1, 8)


def test_other_numbers_of_layers_than_named_are_refused_with_the_accepted_shapes():
    with pytest.raises(
        UserError, match=r"has 5 layers.*names 4; the shape must be \(T, D\), \(T, layers, D\)"
    ):
        decide("video", files((75, 5, 8)), named=4)
    with pytest.raises(
        UserError, match=r"has 5 layers.*names 4; the shape must be \(L, D\), \(L, layers, D\)"
    ):
        decide("text", files((5, 9, 8), (5, 7, 8)), named=4)


@pytest.mark.parametrize(
    ("kind", "shape"), [("video", (4,)), ("video", (2, 3, 4, 5, 6)), ("text", (4, 3, 2, 5))]
)
def test_other_numbers_of_axes_are_refused(kind, shape):
    with pytest.raises(UserError, match="the shape must be"):
        decide(kind, files(shape))
