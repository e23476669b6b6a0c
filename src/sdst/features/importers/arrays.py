"""Read the array in a stranger's file, ``.npy``, ``.npz`` or ``.pt``, as data, never as code."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy_format

from sdst.errors import UserError
from sdst.untrusted.archives import require_backed_zip

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Content = bytes | mmap.mmap

SUFFIXES = (".npy", ".npz", ".pt")
MASK = "attention_mask"
"""Name of the array beside a query's tokens that says which of them are not padding."""
SIMULATED = "simulated"
"""Name of an array beside the features that says that they are simulated (``sdst features simulate``)."""
MOST_LISTED = 8  # names of arrays in a message


@dataclass(frozen=True)
class Contents:
    """The array of a file.

    Attributes:
        path: The file, for messages.
        key: Name of the array; empty if the file holds one array without a name.
        array: The array as stored, of any float type and shape; bfloat16 becomes float32.
        mask: Which tokens are not padding, (L,) bool; None if the file does not say.
        simulated: Whether the file says that it is simulated.
    """

    path: str
    key: str
    array: NDArray[np.generic]
    mask: NDArray[np.bool_] | None = None
    simulated: bool = False


def read_contents(
    content: Content, path: str, *, usual: Sequence[str], key: str | None = None, option: str = "--video-key"
) -> Contents:
    """Read the array of a file.

    Args:
        content: Bytes of the file.
        path: The file, with its extension, for messages.
        usual: Names to look for in a file with several arrays, the preferred one first.
        key: Name that the user chose.
        option: The option with which the user chooses a name, for messages.

    Raises:
        UserError: The file is damaged, holds no array of numbers, or several of which none has a usual name.
    """
    try:
        if path.lower().endswith(".npy"):
            return Contents(path, "", _checked(_parse_npy(content), path))
        if path.lower().endswith(".npz"):
            with zipfile.ZipFile(_file(content)) as archive:
                require_backed_zip(archive, len(content))
                members = {name.removesuffix(".npy"): name for name in archive.namelist()}
                chosen = _choose(list(members), path, usual, key, option)
                mask = _parse_npy(archive.read(members[MASK])) if MASK in members else None
                array = _parse_npy(archive.read(members[chosen]))
                return _contents(path, chosen, array, mask, simulated=SIMULATED in members)
        return _read_pt(content, path, usual, key, option)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds pickled Python objects, e.g. layers of unequal widths; store one array of numbers"
        ) from error
    except Exception as error:  # NumPy, zipfile and PyTorch raise many kinds for a damaged file
        raise UserError(f"{path}: damaged or not an array file; copy it again or make it anew") from error


def _contents(
    path: str, key: str, array: NDArray[np.generic], mask: Any, *, simulated: bool = False
) -> Contents:
    kept = None if mask is None else np.asarray(mask).reshape(-1) != 0
    return Contents(path, key, _checked(array, path), kept, simulated)


def _checked(array: NDArray[np.generic], path: str) -> NDArray[np.generic]:
    if array.dtype.kind != "f":
        raise UserError(f"{path}: holds values of type {array.dtype}, expected floats; check the file")
    if array.size == 0:
        raise UserError(f"{path}: is empty, its array has shape {array.shape}; make it anew")
    return array


def _choose(names: Sequence[Any], path: str, usual: Sequence[str], key: str | None, option: str) -> str:
    """The name of the array to read among those that are there."""
    arrays = [str(name) for name in names if name not in (MASK, SIMULATED)]
    if key is not None and key in arrays:
        return key
    if key is None:
        if len(arrays) == 1:
            return arrays[0]
        if (found := next((name for name in usual if name in arrays), None)) is not None:
            return found
    listed = ", ".join(sorted(arrays)[:MOST_LISTED]) + (", ..." if len(arrays) > MOST_LISTED else "")
    wanted = f"has no array '{key}'" if key is not None else "has several arrays and none of the usual names"
    raise UserError(f"{path}: {wanted}; choose with {option} from: {listed or '(none)'}")


def _parse_npy(content: Content) -> NDArray[np.generic]:
    """A view of the array in the bytes of a ``.npy`` file; a header that declares more than they hold is refused."""
    file = _file(content)
    version = npy_format.read_magic(file)
    read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise pickle.UnpicklingError
    count, start = math.prod(shape), file.tell()
    if count * dtype.itemsize > len(content) - start:
        raise ValueError("the header declares more than the file holds")
    flat = np.frombuffer(content, dtype, count, start)
    return flat.reshape(shape, order="F" if fortran else "C")


def _file(content: Content) -> Any:
    if isinstance(content, bytes):
        return io.BytesIO(content)
    content.seek(0)
    return content


def _read_pt(content: Content, path: str, usual: Sequence[str], key: str | None, option: str) -> Contents:
    # Imported here because it takes seconds, and most files are not PyTorch's.
    import torch

    if zipfile.is_zipfile(_file(content)):
        with zipfile.ZipFile(_file(content)) as archive:
            require_backed_zip(archive, len(content))
    with torch.serialization.safe_globals(_numpy_types()):
        loaded = torch.load(_file(content), map_location="cpu", weights_only=True)
    mask = None
    chosen = ""
    if isinstance(loaded, dict):
        arrays: Mapping[Any, Any] = {
            name: value for name, value in loaded.items() if isinstance(value, torch.Tensor | np.ndarray)
        }
        if not arrays:
            raise UserError(f"{path}: holds a dict without tensors; store one tensor")
        chosen = _choose(list(arrays), path, usual, key, option)
        mask = _to_numpy(arrays[MASK]) if MASK in arrays else None
        loaded = next(value for name, value in arrays.items() if str(name) == chosen)
    if not isinstance(loaded, torch.Tensor | np.ndarray):
        held = type(loaded).__name__
        if isinstance(loaded, list | tuple):
            held += f" of {len(loaded)} {type(loaded[0]).__name__}s" if loaded else " without items"
        raise UserError(
            f"{path}: holds a {held}; store one tensor, e.g. torch.save(torch.stack(features), file)"
        )
    return _contents(path, chosen, _to_numpy(loaded), mask)


def _to_numpy(value: Any) -> NDArray[np.generic]:
    import torch

    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise pickle.UnpicklingError
        return value
    if value.layout is not torch.strided:
        raise ValueError("a sparse tensor")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError("the tensor is larger than its storage")  # would take memory the file does not have
    value = value.detach()
    return np.asarray((value.float() if value.dtype == torch.bfloat16 else value).numpy())


def _numpy_types() -> list[Any]:
    """What a pickled NumPy array of numbers consists of, under the names of NumPy 1 and 2; none of it runs code."""
    from numpy._core.multiarray import _reconstruct

    numbers = (np.float16, np.float32, np.float64, np.int64, np.int32, np.bool_)
    names = [(_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    return [*names, np.ndarray, np.dtype, *(type(np.dtype(number)) for number in numbers)]
