"""The model card of a shared model: what it was trained on, how it was chosen, how good it is, how it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from sdst.features.backbone.sizes import SHIPPED
from sdst.untrusted.shared_files import PICTURE
from sdst.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

TASK = {"type": "video-temporal-grounding", "name": "Video temporal grounding"}
SMALL_WORLD = (
    "It knows the small world of coloured shapes that move, and nothing of real scenes: its numbers say nothing about "
    "real videos."
)
SIMULATED = (
    "It was trained on SIMULATED features: its numbers mean nothing, and no video can be predicted with it."
)


def write_card(
    title: str,
    license_id: str | None,
    config: Mapping[str, Any],
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    with_picture: bool,
) -> str:
    """The card as Markdown, with the front matter of the Hugging Face Hub.

    Args:
        title: Name of the model.
        license_id: Licence of the weights, see :func:`sdst.sharing.contents.collect`.
        config: The resolved configuration.
        recipe: How the features were made.
        metrics: Content of the shared metrics.json.
        facts: ``commit`` (``git`` of run.json) and ``parameters``, the number of weights.
        with_picture: Whether the model has a picture.
    """
    dataset, small = config["data"]["name"], recipe["backbone"] in SHIPPED
    own = small or recipe["simulated"]
    license_id = license_id or ("apache-2.0" if own else "unknown")
    front = {
        "library_name": "sdst",
        "license": license_id,
        "tags": [
            *("video-temporal-grounding", "moment-retrieval", "highlight-detection"),
            *["small-world"] * small,
            *["simulated-features"] * recipe["simulated"],
        ],
        "datasets": [dataset],
        "metrics": list(dict.fromkeys(key for scores in metrics["best"].values() for key in scores)),
        "model-index": [{"name": title, "results": _results(dataset, metrics["best"])}],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {title}\n",
        "Finds the moments of a video that a sentence describes, and rates how well each clip fits it.\n",
        *[
            f"**{note}**\n"
            for note, holds in ((SMALL_WORLD, small), (SIMULATED, recipe["simulated"]))
            if holds
        ],
        _origin(config, recipe, metrics, facts, dataset),
        _usage(recipe, small),
        _scores(metrics),
    ]
    if with_picture:
        split = metrics["selected"]["split"]
        parts.append(
            f"The first queries of {split}, not chosen:\n\n![predicted and true moments]({PICTURE})\n"
        )
    return "\n".join(parts)


def _results(dataset: str, best: Mapping[str, Mapping[str, float | None]]) -> list[dict[str, Any]]:
    """Metrics in the form of a model index."""
    return [
        {
            "task": dict(TASK),  # a copy, because YAML would refer to the first
            "dataset": {"type": dataset, "name": dataset, "split": split},
            "metrics": [
                {"type": key, "name": key, "value": value}
                for key, value in scores.items()
                if value is not None
            ],
        }
        for split, scores in best.items()
    ]


def _origin(
    config: Mapping[str, Any],
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
    facts: Mapping[str, Any],
    dataset: str,
) -> str:
    selected, git = metrics["selected"], facts["commit"]
    commit = git["commit"] + " with uncommitted changes" * git["dirty"] if git else "not recorded"
    layers = ", ".join(map(str, recipe["video_layers"]))
    rows = {
        "model": f"`{config['model']['_target_']}`, {facts['parameters']:,} parameters",
        "trained on": f"{dataset}, split train",
        "features": f"{recipe['backbone']}, {recipe['pooling']} pooling, layers {layers}, "
        f"clips of {recipe['clip_seconds']:g} s",
        "selected": f"highest {selected['metric']} on split {selected['split']}, epoch {selected['epoch'] + 1} of "
        f"{metrics['epochs']}",
        "seed": str(config["seed"]),
        "commit of the training": commit,
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _usage(recipe: Mapping[str, Any], small: bool) -> str:
    """Commands and Python lines that ask about a video."""
    if recipe["simulated"]:
        return ""
    files = "" if small else " \\\n    --backbone-checkpoint BACKBONE.pt --vocab vocab.txt"
    arguments = "" if small else ', "BACKBONE.pt", vocab="vocab.txt"'
    needs = (
        "comes with the package" if small else "is not part of this model; its authors publish its weights"
    )
    return f"""## Usage

`pip install 'sdst[extract,hub]'`, version {__version__} or newer. `MODEL` is this folder or zip file, or
`hf://user/name`. The backbone ({recipe["backbone"]}) {needs}.

```sh
sdst predict --checkpoint MODEL{files} \\
    --video holiday.mp4 --query "a red disc moves left" --table
```

```py
import sdst

grounder = sdst.load("MODEL"{arguments})
for prediction in grounder.predict("holiday.mp4", ["a red disc moves left"]):
    start, end, score = prediction.windows[0]
```
"""


def _scores(metrics: Mapping[str, Any]) -> str:
    """Table of all metrics, one column per split."""
    best, selected = metrics["best"], metrics["selected"]
    names = list(dict.fromkeys(key for scores in best.values() for key in scores))
    if not names:
        return "## Results\n\nNo split of the run has labels.\n"
    rows = "".join(
        f"| {name} | " + " | ".join(_cell(scores.get(name)) for scores in best.values()) + " |\n"
        for name in names
    )
    return (
        f"## Results\n\nIn percent. The epoch was selected on {selected['split']}, so its numbers are optimistic.\n\n"
        f"| | {' | '.join(best)} |\n|---|{'---:|' * len(best)}\n{rows}"
    )


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
