"""Ways to break a valid file, in its bytes or its content. All randomness comes from the given generator."""

import copy
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml

Rng = np.random.Generator
Mutation = Callable[[Path, Rng], None]
"""Function that changes a file in place."""

NAMES = [
    "../../x",
    "/etc/passwd",
    "a/b",
    "",
    ".",
    "..",
    "a\0b",
    "x" * 300,
    "👩‍🚀" * 40,
    "\u202egpj.exe",
    "\x1b[2J",
]
NAMES += [
    "$(touch ran)",
    "`id`",
    "$\\frac$",
    "-rf",
    "%s%n",
    "{vid}",
    "\ud800",
    "a\nb",
    "${oc.env:HOME}",
    "os.system",
]
NUMBERS = [
    0,
    -1,
    1,
    2,
    3,
    10**6,
    2**31,
    2**63,
    10**30,
    -0.0,
    1e-320,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
]
ODD: list[Any] = [
    *NAMES,
    *NUMBERS,
    None,
    True,
    False,
    [],
    {},
    [[]],
    [1],
    [[1, 2]],
    [[2, 1, 0.5]],
    {"a": 1},
    "1.5",
]
ODD += [
    {"_target_": "os.system", "command": "true"},
    {"_target_": "torch.hub.load"},
    [None] * 3,
    "null",
    "nan",
]


def pick(values: list[Any], rng: Rng) -> Any:
    """Copy of a random value; ``rng.choice`` would convert the values to an array."""
    return copy.deepcopy(values[int(rng.integers(len(values)))])


def pick_from(values: list[Any], rng: Rng) -> Any:
    """A random value itself, to be changed."""
    return values[int(rng.integers(len(values)))]


def mutate_bytes(path: Path, rng: Rng) -> None:
    """Flip, cut, repeat, insert or overwrite bytes, one to three times."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 4)):
        start, stop = sorted(rng.integers(0, len(content) + 1, 2).tolist())
        stop = min(stop, start + int(rng.choice([1, 4, 100, 10**6])))
        noise = rng.bytes(int(rng.integers(1, 9)))
        match int(rng.integers(5)):
            case 0 if content:
                content[start % len(content)] ^= 1 << int(rng.integers(8))
            case 1:
                del content[start:]
            case 2:
                content[start:start] = content[start:stop]
            case 3:
                content[start:start] = noise
            case _:
                content[start : start + len(noise)] = pick([noise, bytes(8), b"\xff" * 8], rng)
    path.write_bytes(content)


def mutate_tree(tree: Any, rng: Rng, odd: list[Any] = ODD) -> Any:
    """Replace, remove, repeat or rename one to three values at any depth of plain data."""
    for _ in range(rng.integers(1, 4)):
        places = [(tree, key) for tree in _containers(tree) for key in _keys(tree)]
        if not places:
            return pick(odd, rng)
        parent, key = places[int(rng.integers(len(places)))]
        match int(rng.integers(6)):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[pick(["new", "", "_target_", 7, *NAMES], rng)] = parent.pop(key)
            case 2 if isinstance(parent, list):
                parent.append(parent[key])
            case _:
                parent[key] = pick(odd, rng)
    return tree


def _containers(tree: Any) -> list[Any]:
    if not isinstance(tree, dict | list):
        return []
    below = tree.values() if isinstance(tree, dict) else tree
    return [tree, *(container for value in below for container in _containers(value))]


def _keys(tree: Any) -> list[Any]:
    return list(tree) if isinstance(tree, dict) else list(range(len(tree)))


def mutate_rows(path: Path, rng: Rng) -> None:
    """Change, repeat or remove a row of a JSON Lines file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    index = int(rng.integers(len(rows)))
    match int(rng.integers(8)):
        case 0:
            rows.append(rows[index])
        case 1:
            del rows[index]
        case _:
            rows[index] = mutate_tree(rows[index], rng)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def reorder_rows(path: Path, rng: Rng) -> None:
    """Change the order of the rows of a JSON Lines file, and nothing else."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[index] for index in rng.permutation(len(lines))))


def mutate_vids(path: Path, rng: Rng) -> None:
    """Give rows the videos of other rows, or make one video's name odd."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    vids = [row["vid"] for row in rows]
    for row, index in zip(rows, rng.permutation(len(rows)), strict=True):
        row["vid"] = vids[index]
    if rng.random() < 0.3:
        rows[int(rng.integers(len(rows)))]["vid"] = pick(ODD, rng)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def mutate_json(path: Path, rng: Rng) -> None:
    """Change values of a JSON document."""
    path.write_text(json.dumps(mutate_tree(json.loads(path.read_text()), rng)))


def mutate_yaml(path: Path, rng: Rng) -> None:
    """Change values of a YAML document."""
    writable = [value for value in ODD if value != "\ud800"]
    tree = mutate_tree(yaml.safe_load(path.read_text()), rng, writable)
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), errors="replace")


TARGETS: list[Any] = [
    *("os.system", "builtins.eval", "subprocess.Popen", "torch.hub.load", "torch.os.system", "sdst.cli.main"),
    *("this", "this.s", "wandb.__main__.X", "torch.utils.model_dump.__main__.X"),
    *(
        "torchmetrics.text.BERTScore",
        "lightning.pytorch.loggers.WandbLogger",
        "lightning.Trainer",
        "torch.nn",
    ),
    *("sdst.models.sdst.SDST.__init__", "sdst.models", "sdst.models.sdst.torch.os.system", "torch.nn.Linear"),
    *("sdst", ".", "a..b", "", " torch.nn.Linear", "torch.nn.Lineâr", "x" * 300, "a." * 500),
    *(None, 3, True, ["os.system"], {"_target_": "os.system"}),
]
"""Names for ``_target_``: of programs, of functions, of parts that belong elsewhere, and of nothing."""
HYDRA_KEYS: list[Any] = [
    {"_partial_": True},
    {"_partial_": "yes"},
    {"_args_": ["touch ran"]},
    {"_recursive_": False},
    {"_convert_": "all"},
    {"_unknown_": 1},
]


def _mutate_target(tree: Any, rng: Rng) -> None:
    """Give one or two nodes another target or a key of Hydra's own; half of the time, nodes that have a target."""
    for _ in range(rng.integers(1, 3)):
        nodes = [node for node in _containers(tree) if isinstance(node, dict)]
        built = [node for node in nodes if "_target_" in node]
        node = pick_from(built if built and rng.random() < 0.5 else nodes, rng)
        if rng.random() < 0.5:
            node.update(pick(HYDRA_KEYS, rng))
        elif node is tree or rng.random() < 0.8:
            node["_target_"] = pick(TARGETS, rng)
        else:
            node["new"] = [{"_target_": pick(TARGETS, rng), "_partial_": True}]


def mutate_targets(path: Path, rng: Rng) -> None:
    """Change what a stored configuration builds."""
    tree = yaml.safe_load(path.read_text())
    _mutate_target(tree, rng)
    path.write_text(yaml.safe_dump(tree, allow_unicode=True))


def mutate_checkpoint_targets(path: Path, rng: Rng) -> None:
    """Change what a checkpoint's configuration builds."""
    stored = torch.load(path, weights_only=True)
    _mutate_target(stored["sdst"]["config"], rng)
    torch.save(stored, path)


def mutate_codec(path: Path, rng: Rng) -> None:
    """Replace the names of a video's codecs by others of the same length, mostly unknown ones."""
    content = path.read_bytes()
    for name in (b"avc1", b"mp4v", b"mp4a", b"png ", b"V_VP8", b"MPNG"):
        other = pick([b"zzz1", b"av01", b"hev1", b"rle ", b"\0\0\0\0", b"text"], rng)
        content = content.replace(name, (4 * other)[: len(name)])
    path.write_bytes(content)


def mutate_checkpoint(path: Path, rng: Rng) -> None:
    """Change the configuration, the recipe or any other part of a checkpoint."""
    stored = torch.load(path, weights_only=True)
    odd = [*ODD, torch.zeros(3), torch.full((2, 2), torch.nan), torch.zeros(1).expand(10**9)]
    targets = [stored["sdst"]["config"], stored["sdst"]["recipe"], stored["sdst"], stored]
    mutate_tree(targets[int(rng.integers(len(targets)))], rng, odd)
    torch.save(stored, path)


def mutate_hdf5(path: Path, rng: Rng) -> None:
    """Change attributes, links or arrays of a feature file."""
    with h5py.File(path, "r+") as file:
        items: list[str] = []
        file.visit(items.append)
        key = pick(items, rng)
        match int(rng.integers(5)):
            case 0:
                del file.attrs[pick(list(file.attrs), rng)]
            case 1:
                file.attrs[pick([*file.attrs, "new"], rng)] = pick(ATTRIBUTES, rng)
            case 2:
                del file[key]
            case 3:
                del file[key]
                file[key] = pick([h5py.SoftLink("/video"), h5py.ExternalLink("other.h5", "/"), 3.0], rng)
            case _:
                del file[key]
                file.create_dataset(key, **pick(ARRAYS, rng))


HALF = np.float16
ATTRIBUTES: list[Any] = [
    "",
    "x" * 300,
    "\u202egpj",
    0,
    -1,
    7,
    2**62,
    1e308,
    np.nan,
    True,
    [1, 2],
    [40.5, 41],
    [[1], [2]],
]
ATTRIBUTES += [
    [],
    np.zeros(5000),
    np.void(b"opaque"),
    h5py.Empty("f"),
    np.bytes_(b"\xff\xfe"),
    ["a", "b"],
    1j,
]
ARRAYS: list[dict[str, Any]] = [
    {"shape": (10**9, 2, 16), "dtype": HALF},
    {"shape": (2**40, 2**40, 2), "dtype": HALF, "chunks": (1, 1, 1)},
    {"data": np.ones((4, 2, 16), np.float64)},
    {"data": np.ones((4, 2, 15), HALF)},
    {"data": np.ones((4, 3, 16), HALF)},
    {"data": np.ones((40, 2, 16), HALF), "compression": "gzip"},
    {"data": np.full((4, 2, 16), np.nan, HALF)},
    {"data": np.full((4, 2, 16), 6e4, HALF)},
    {"shape": (0, 2, 16), "dtype": HALF},
    {"data": "text"},
    {"shape": None, "dtype": HALF},
]


def mutate_arrays(path: Path, rng: Rng) -> None:
    """Replace a NumPy or PyTorch feature file by another array, an object or a decompression bomb."""
    values: Any = pick(
        [*(a["data"] for a in ARRAYS if "data" in a), np.array([{}]), np.zeros((2, 2), "U3")], rng
    )
    if path.suffix == ".npz":
        if rng.random() < 0.3:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<f2", "fortran_order": False, "shape": (10**12, 8)}
            )
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("features.npy", header.getvalue() + bytes(1000))
            return
        np.savez(path, **{pick(["features", "x"], rng): values})
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        torch.save(pick([{}, [1], torch.zeros(2), torch.zeros(1).expand(10**10, 2, 3), "text"], rng), path)
