"""Run every notebook on a demo and write it with its outputs as a page of the documentation; ``make pictures`` does it.

Needs IPython, nbformat and Pillow.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import nbformat
from IPython import display
from IPython.core.interactiveshell import InteractiveShell
from IPython.lib.pretty import pretty
from IPython.utils.capture import capture_output
from matplotlib import pyplot
from PIL import Image

from pictures import shrink
from sdst.files.atomic import write_atomically
from sdst.training.provenance import describe_process

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
DOTS_PER_INCH = 80
WIDTH = 100
"""Characters of a line of results."""
WIDEST = 900
"""Width of a picture in pixels."""
LARGEST, FEWER_COLOURS = 100_000, 64
"""Bytes of a picture, and the colours of one that would need more."""


def run_notebook(
    cells: list[nbformat.NotebookNode],
) -> Iterator[tuple[nbformat.NotebookNode, str, list[Image.Image]]]:
    """Run cells in order in this process.

    Yields:
        Each cell, what it printed and returned as text, and its pictures.
    """
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    for cell in cells:
        if cell.cell_type != "code":
            yield cell, "", []
            continue
        with capture_output() as captured:
            results: list[object] = []
            shell.display_trap.hook = results.append
            shell.run_cell(cell.source).raise_error()
        pictures, text = drawn(), captured.stdout
        for result in results:
            if isinstance(result, display.Image):
                pictures.append(Image.open(io.BytesIO(result.data)))
            elif result is not None:
                text += pretty(result, max_width=WIDTH)
        yield cell, text, pictures


def drawn() -> list[Image.Image]:
    """Pictures of all open figures, which are closed."""
    pictures = []
    for number in pyplot.get_fignums():
        stream = io.BytesIO()
        pyplot.figure(number).savefig(stream, dpi=DOTS_PER_INCH, bbox_inches="tight")
        pictures.append(Image.open(stream))
    pyplot.close("all")
    return pictures


def write_small(picture: Image.Image, path: Path) -> None:
    """Write a picture with few colours, and smaller until its file has at most ``LARGEST`` bytes."""
    picture.thumbnail((WIDEST, picture.height))
    shrink(picture, path)
    while path.stat().st_size > LARGEST:
        shrink(picture, path, FEWER_COLOURS)
        picture = picture.resize((picture.width * 9 // 10, picture.height * 9 // 10))


def page(path: Path, origin: str, images: Path) -> str:
    """Run a notebook, write its pictures and return its page."""
    parts: list[str] = []
    count = 0
    for cell, text, pictures in run_notebook(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            if len(parts) == 1:
                parts.append(f"*`notebooks/{path.name}`, {origin}.*")
            continue
        parts.append(f"```py\n{cell.source}\n```")
        if text.strip():
            parts.append(f"```text\n{text.rstrip()}\n```")
        for picture in pictures:
            count += 1
            name = f"{path.stem}-{count}.png"
            write_small(picture, images / name)
            heading = next(part for part in reversed(parts) if part.startswith("#")).splitlines()[0]
            parts.append(f"![{heading.lstrip('# ')}](../images/notebooks/{name})")
    return "\n\n".join(parts) + "\n"


def commit() -> str:
    """The commit of the code that runs the notebooks."""
    git = describe_process()["git"]
    return f"`{git['commit'][:10]}`{' with uncommitted changes' * git['dirty']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to run (default: all)")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of the demo")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the documentation")
    args = parser.parse_args()
    notebooks = [path.resolve() for path in args.notebooks] or sorted(NOTEBOOKS.glob("*.ipynb"))
    out, demo = args.out.resolve(), args.demo.resolve()
    made_by = json.loads((demo / "run/run.json").read_text())["git"]["commit"][:10]
    origin = f"executed at commit {commit()} on a demo of commit `{made_by}`"
    images = out / "images/notebooks"
    images.mkdir(parents=True, exist_ok=True)
    os.environ["SDST_DEMO"] = str(demo)
    matplotlib.use("agg")
    pyplot.show = lambda: None  # figures are collected when the cell ends
    for path in notebooks:
        for old in images.glob(f"{path.stem}-*.png"):
            old.unlink()
        with contextlib.chdir(path.parent):  # as Jupyter does
            text = page(path, origin, images)
        write_atomically(out / "notebooks" / f"{path.stem}.md", text)
        sys.stdout.write(f"{out / 'notebooks' / path.stem}.md\n")


if __name__ == "__main__":
    main()
