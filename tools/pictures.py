"""Make the documentation's pictures, and the README's numbers, from a demo: ``make pictures``.

Needs Chromium and Pillow, which matplotlib installs.
"""

import argparse
import base64
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from helpers.browser import Browser
from sdst.data.annotations import read_annotations
from sdst.files.atomic import write_atomically
from sdst.metrics.evaluation import evaluate
from sdst.metrics.trivial import mean_moment

COLOURS = 128
"""Colours per picture: a fifth of the bytes without a visible difference."""
OPEN_SAMPLE = """(() => {
    const sample = [...document.querySelectorAll('.sample')].find(one => one.textContent.includes('wobbles sideways'));
    sample.click();
    sample.scrollIntoView({behavior: "instant"});
})()"""
THUMBNAILS_DRAWN = (
    "[...document.querySelectorAll('.detail canvas')].some(one => parseFloat(one.style.left) > 75)"
)
DESKTOP, PHONE, PLOT = (1280, 900), (390, 844), (900, 1400)
"""Width and height in pixels."""


def shrink(picture: Image.Image, path: Path, colours: int = COLOURS) -> None:
    """Write a picture with few colours."""
    picture.convert("RGB").quantize(colours).save(path, optimize=True)


def screenshot(browser: Browser) -> Image.Image:
    """Return a picture of the window."""
    answer = browser.send("Page.captureScreenshot", format="png")
    return Image.open(io.BytesIO(base64.b64decode(answer["data"])))


ASK = """(() => {
    document.getElementById("queries").value = %s;
    document.getElementById("ask").requestSubmit();
})()"""
QUERIES = ("The tangerine circle falls slowly.", "A dog jumps.")


def serve_page(browser: Browser, run: Path, path: Path) -> None:
    """Ask two queries about a video of the test split on the page of ``sdst serve``, and draw the page."""
    command = [sys.executable, "-m", "sdst", "serve", "--checkpoint", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            browser.resize(*DESKTOP)
            browser.send("Page.navigate", url=server.stdout.readline().strip())
            browser.wait("location.protocol === 'http:' && document.readyState === 'complete'")
            root = browser.send("DOM.getDocument")["root"]["nodeId"]
            field = browser.send("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
            video = run.parent / "world/videos/world-test-0000.mp4"
            browser.send("DOM.setFileInputFiles", files=[str(video.resolve())], nodeId=field)
            browser.wait("document.querySelector('video')?.readyState >= 2")  # the video is chosen
            for number, query in enumerate(QUERIES, start=1):
                browser.evaluate(ASK % json.dumps(query))
                browser.wait(f"document.querySelectorAll('#view h2').length === {number}")
            browser.wait("document.querySelector('video')?.readyState >= 2")
            shrink(screenshot(browser), path)
        finally:
            server.terminate()


def numbers(run: Path) -> str:
    """Commit and metrics of the demo's run and of its mean moment, as JSON."""
    train, val, test = (
        read_annotations(run.parent / f"world/{name}.jsonl").records for name in ("train", "val", "test")
    )
    found = {
        "commit": json.loads((run / "run.json").read_text())["git"]["commit"],
        "queries": {"val": len(val), "test": len(test)},
        "SDST": json.loads((run / "metrics.json").read_text())["best"],
        "mean moment": {"val": evaluate(mean_moment(val, train), val, "qvhighlights")["brief"]},
    }
    return json.dumps(found, indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo/run"), help="folder of the demo's run")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="output folder of the pictures")
    parser.add_argument(
        "--numbers",
        type=Path,
        default=Path("experiments/results/demo.json"),
        help="output file of the numbers",
    )
    args = parser.parse_args()
    write_atomically(args.numbers, numbers(args.run))
    plot = Image.open(args.run / "predictions.png")
    plot.thumbnail(PLOT)
    shrink(plot, args.out / "prediction.png")
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        try:
            browser.resize(*DESKTOP)
            browser.open(args.run / "show.html")
            shrink(screenshot(browser), args.out / "show-desktop.png")
            for name, size in (("sample", DESKTOP), ("phone", PHONE)):
                browser.resize(*size)
                browser.open(args.run / "show.html")
                browser.evaluate(OPEN_SAMPLE)
                browser.wait(THUMBNAILS_DRAWN)
                shrink(screenshot(browser), args.out / f"show-{name}.png")
            serve_page(browser, args.run, args.out / "serve.png")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
