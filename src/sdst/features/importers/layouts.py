"""Published feature files of other projects, as a table: how their files are named and what their arrays are.

Adding a layout means adding a row to ``LAYOUTS``; no other code knows a layout by its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdst.features.backbone.sizes import PRESETS
from sdst.features.importers.axes import without_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERNVIDEO2_1B = PRESETS["internvideo2-1b"]


@dataclass(frozen=True)
class Files:
    """The files of one kind, videos or queries.

    Attributes:
        names: Patterns of the file names without extension.
        suffixes: Extensions.
        keys: Names of the array, the preferred one first, in files that name their arrays.
        ranks: Numbers of axes, without a batch axis.
        widths: Widths of a layer's vector; empty if any.
        last_layer: Number of the last stored layer; None numbers the layers 1, 2, ...
    """

    names: tuple[str, ...]
    suffixes: tuple[str, ...]
    keys: tuple[str, ...]
    ranks: tuple[int, ...]
    widths: tuple[int, ...] = ()
    last_layer: int | None = None


@dataclass(frozen=True)
class Layout:
    """The files of one project.

    Attributes:
        name: Name of the layout on the command line.
        backbones: (pattern, name): the first pattern found in ``"<folder or archive of the videos> <width>"``, in
            lower case, names the backbone.
        video: The files of videos.
        text: The files of queries.
        text_axes: Order of the axes of a query's array with several layers: ``layers,tokens`` or ``tokens,layers``.
        num_layers: Number of layers of an array with several layers; None if any.
        clip_seconds: Possible lengths of a clip, the usual one first.
        folders: (video folder, query folder) of each data set; empty if any.
        known_by_folders: Whether only the folders tell its files from those of another layout.
    """

    name: str
    backbones: tuple[tuple[str, str], ...]
    video: Files
    text: Files
    text_axes: str
    num_layers: int | None
    clip_seconds: tuple[float, ...]
    folders: tuple[tuple[str, str], ...] = ()
    known_by_folders: bool = False

    def backbone(self, folder: str, width: int) -> str | None:
        """Name of the network that made the videos of a folder or archive, ``width`` wide; None if unknown."""
        place = f"{folder} {width}".lower()
        return next((name for pattern, name in self.backbones if re.search(pattern, place)), None)

    def files(self, kind: str) -> Files:
        """The files of a kind, ``video`` or ``text``."""
        return self.video if kind == "video" else self.text


_IV2_NAMES = (
    (r"(?<![a-z0-9])6b(?![a-z0-9])", "internvideo2-6b"),
    (r"(?<![a-z0-9])1b(?![a-z0-9])", "internvideo2-1b"),
    ("", "internvideo2"),
)

LAYOUTS = (
    Layout(
        name="sdst",
        backbones=(("", "internvideo2-1b"),),
        video=Files(
            names=("{vid}",),
            suffixes=(".npz",),
            keys=("visual_feats_interm_pooled", "visual_feats_pooled"),
            ranks=(2, 3),
            last_layer=INTERNVIDEO2_1B.vision.depth,
        ),
        text=Files(
            names=("{qid}",),
            suffixes=(".npz",),
            keys=("text_feats",),
            ranks=(2, 3),
            last_layer=INTERNVIDEO2_1B.text.fusion_layer,
        ),
        text_axes="layers,tokens",
        num_layers=5,
        clip_seconds=(2.0, 1.0),
        folders=(("vid_feats", "txt_feats"),),
    ),
    Layout(
        name="flashvtg",
        backbones=(("", "internvideo2-6b"),),
        video=Files(("{vid}",), (".pt", ".npz", ".npy"), ("features",), ranks=(2,), widths=(768,)),
        text=Files(("qid{qid}",), (".pt", ".npz", ".npy"), ("features", "last_hidden_state"), (2,), (4096,)),
        text_axes="tokens,layers",
        num_layers=1,
        clip_seconds=(2.0, 1.0),
        folders=(
            ("qvhighlight_6b", "qvhighlight_llama_text_feature"),
            ("charade_sta_6b", "charade_sta_llama_text_feature"),
        ),
        known_by_folders=True,
    ),
    Layout(
        name="internvideo2",
        backbones=_IV2_NAMES,
        video=Files(("{vid}",), (".pt",), ("features",), ranks=(2,), widths=(768,)),
        text=Files(("qid{qid}",), (".pt",), ("features",), ranks=(2,), widths=(4096,)),
        text_axes="tokens,layers",
        num_layers=1,
        clip_seconds=(2.0, 1.0),
    ),
    Layout(
        name="sg-detr",
        backbones=(("", "internvideo2-1b-projected"),),
        video=Files(("{vid}",), (".pt",), ("features",), ranks=(2,), widths=(512,)),
        text=Files(("{qid}",), (".npz",), ("features",), ranks=(2,), widths=(512,)),
        text_axes="tokens,layers",
        num_layers=1,
        clip_seconds=(2.0, 1.0),
    ),
    Layout(
        name="moment-detr",
        backbones=((r" 2816$", "slowfast+clip"), (r" 2304$", "slowfast"), (r" 512$", "clip")),
        video=Files(("{vid}",), (".npz",), ("features",), ranks=(2,)),
        text=Files(
            ("qid{qid}", "{qid}"), (".npz",), ("last_hidden_state", "token", "features", "arr_0"), ranks=(2,)
        ),
        text_axes="tokens,layers",
        num_layers=1,
        clip_seconds=(2.0, 1.0),
    ),
    Layout(
        name="r2-tuning",
        backbones=(("", "clip"),),
        video=Files(("{vid}", "{vid}-cam-002"), (".npy",), (), ranks=(4,)),
        text=Files(("{qid}",), (".npy",), (), ranks=(3,)),
        text_axes="tokens,layers",
        num_layers=4,
        clip_seconds=(2.0, 1.0),
    ),
)
"""The known layouts. Where files fit several, the first that fits both videos and queries is taken, else the first."""


def find(name: str) -> tuple[Layout, ...]:
    """The layouts that a name on the command line stands for; all for ``auto``."""
    return LAYOUTS if name == "auto" else tuple(layout for layout in LAYOUTS if layout.name == name)


def name_patterns(layouts: Sequence[Layout], kind: str) -> list[str]:
    """The file name patterns of the layouts, then those of all others, each once."""
    return list(dict.fromkeys(name for layout in (*layouts, *LAYOUTS) for name in layout.files(kind).names))


def usual_keys(layouts: Sequence[Layout], kind: str) -> list[str]:
    """The array names of the layouts, the preferred first, then those of all other layouts."""
    return list(dict.fromkeys(key for layout in (*layouts, *LAYOUTS) for key in layout.files(kind).keys))


def places(path: str) -> set[str]:
    """Names of the folders and archives on the way to a file, archives without their extensions."""
    parts = re.split(r"/|: ", path)[:-1]
    return {*parts, *(part.partition(".")[0] for part in parts)}


def folder_kind(path: str) -> str | None:
    """Whether a file lies in a folder with a known name of video or text features: its kind, or None."""
    found = places(path)
    for kind, place in (("video", 0), ("text", 1)):
        if any(pair[place] in found for layout in LAYOUTS for pair in layout.folders):
            return kind
    return None


def has_shape(layout: Layout, kind: str, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape, without a batch axis, may be of the layout."""
    files = layout.files(kind)
    return len(shape) in files.ranks and (not files.widths or shape[-1] in files.widths)


def fits(layout: Layout, kind: str, path: str, key: str, shape: tuple[int, ...]) -> bool:
    """Whether a file agrees with all that the layout states.

    Args:
        layout: A layout.
        kind: ``video`` or ``text``.
        path: Path of the file.
        key: Name of its array; empty if it has none.
        shape: Shape of its array.
    """
    files = layout.files(kind)
    return (
        path.lower().endswith(files.suffixes)
        and (not key or key in files.keys)
        and has_shape(layout, kind, without_batch(shape))
        and (
            not layout.known_by_folders
            or any(pair[kind == "text"] in places(path) for pair in layout.folders)
        )
    )
