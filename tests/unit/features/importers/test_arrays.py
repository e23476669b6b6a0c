"""Reading the array of one file: names, types and damage."""

import io
import pickle

import numpy as np
import pytest
import torch

from sdst.errors import UserError
from sdst.features.importers.arrays import Contents, read_contents

ARRAY = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
TENSOR = torch.from_numpy(ARRAY)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def pt(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def read(content: bytes, name: str, key: str | None = None) -> Contents:
    return read_contents(content, name, usual=["features", "arr_0"], key=key)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.npy", npy(ARRAY)),
        ("v.npy", npy(np.asfortranarray(ARRAY))),
        ("v.npz", npz(any_name=ARRAY)),
        ("v.npz", npz(features=ARRAY, pooled=ARRAY[0])),
        ("v.npz", npz(arr_0=ARRAY, other=ARRAY[0])),
        ("v.pt", pt(TENSOR)),
        ("v.pt", pt(TENSOR.clone().requires_grad_())),
        ("v.pt", pt(torch.nn.Parameter(TENSOR))),
        ("v.pt", pt({"features": TENSOR, "vid": "a"})),
        ("v.pt", pt({"any name": TENSOR})),
        ("v.pt", pt(ARRAY)),
        ("v.pt", pt({"features": ARRAY})),
        ("v.pt", pt(TENSOR.T.contiguous().T)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_only_or_usual_array_is_read(name, content):
    np.testing.assert_array_equal(read(content, name).array, ARRAY)


def test_float_types_are_accepted():
    for dtype in (np.float16, np.float64):
        assert read(npy(ARRAY.astype(dtype)), "v.npy").array.dtype == dtype
        assert read(pt(ARRAY.astype(dtype)), "v.pt").array.dtype == dtype
    np.testing.assert_allclose(read(pt(TENSOR.bfloat16()), "v.pt").array, ARRAY, rtol=0.01)


def test_the_chosen_array_is_read_and_others_are_listed():
    content = npz(a=ARRAY, b=ARRAY + 1)
    np.testing.assert_array_equal(read(content, "v.npz", "b").array, ARRAY + 1)
    with pytest.raises(
        UserError, match=r"v\.npz: has several arrays and none of the usual names.*from: a, b"
    ):
        read(content, "v.npz")
    with pytest.raises(UserError, match=r"v\.npz: has no array 'c'; choose with --video-key from: a, b"):
        read(content, "v.npz", "c")
    with pytest.raises(UserError, match=r"v\.pt: has several arrays.*from: a, b"):
        read(pt({"a": TENSOR, "b": TENSOR}), "v.pt")


def test_a_mask_beside_the_array_is_no_choice():
    mask = np.array([1, 1, 0, 0])
    for name, content in (
        ("q.npz", npz(any_name=ARRAY, attention_mask=mask)),
        ("q.pt", pt({"any name": TENSOR, "attention_mask": torch.from_numpy(mask)[None]})),
    ):
        assert read(content, name).mask.tolist() == [True, True, False, False]


class Harm:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "v.npy",
            npy(np.array([ARRAY, ARRAY[:2]], dtype=object)),
            "pickled Python objects, e.g. layers of unequal",
        ),
        ("v.npz", npz(features=np.array([ARRAY, ARRAY[:2]], dtype=object)), "pickled Python objects"),
        ("v.pt", pt(Harm()), "pickled Python objects"),
        ("v.pt", pt(np.array([ARRAY, ARRAY[:2]], dtype=object)), "pickled Python objects"),
        ("v.pt", pickle.dumps(Harm(), protocol=2), "pickled Python objects"),
        ("v.pt", pt([TENSOR, TENSOR]), "holds a list of 2 Tensors; store one tensor"),
        ("v.pt", pt({"layers": [TENSOR, TENSOR]}), "holds a dict without tensors"),
        ("v.pt", pt("text"), "holds a str"),
        ("v.npy", npy(np.zeros((0, 7))), "is empty"),
        ("v.pt", pt(torch.zeros(0)), "is empty"),
        ("v.npy", npy(np.arange(4)), "values of type int64, expected floats"),
        ("v.npy", npy(np.array(["a"])), "expected floats"),
        ("v.npy", npy(ARRAY.astype(complex)), "expected floats"),
        ("v.npz", npz(), r"choose with --video-key from: \(none\)"),
        ("v.npz", npz(features=np.zeros((9000, 9000))), "damaged or not an array file"),  # 648 MB in 600 kB
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_contents_are_refused_in_words(name, content, message, capsys):
    with pytest.raises(UserError, match=message) as refused:
        read(content, name)
    assert str(refused.value).startswith(f"{name}: ")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "whole"), [("v.npy", npy(ARRAY)), ("v.npz", npz(a=ARRAY)), ("v.pt", pt(TENSOR))]
)
def test_damaged_files_are_refused(name, whole):
    for content in (b"", b"\x93NUMPY junk", whole[:60], whole[: len(whole) // 2]):
        with pytest.raises(UserError, match=f"{name}: (damaged or not an array file|holds pickled)"):
            read(content, name)
