"""Adds pages from outside ``docs``: the Python interface and files of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "sdst"
RESULTS = ROOT / "experiments" / "results" / "laptop"
COPIED = {
    "security.md": "SECURITY.md",
    "small-backbone.md": "src/sdst/features/small_world/MODEL_CARD.md",
    "small-model.md": "src/sdst/inference/small_world/README.md",
    "prediction.png": "src/sdst/inference/small_world/prediction.png",
    "longer-training.md": "experiments/results/learning/README.md",
    "methods.png": "experiments/results/learning/methods/runs.png",
    **{f"tables/{path.name}": str(path.relative_to(ROOT)) for path in sorted(RESULTS.iterdir())},
}
"""Page, picture or data file of the site -> its source in the repository."""
BEGINNINGS = {
    "sdst": "[`sdst.load`][sdst.inference.grounder.load] gives a [`Grounder`][sdst.inference.grounder.Grounder], which "
    "answers queries about videos. [From Python](../python.md) shows it with the other parts that a script uses.\n\n"
}
"""Package -> text before the documentation of its modules."""
ROLE = re.compile(r":(?:func|data|class|meth|mod):(?=<code>)")
"""Sphinx roles in docstrings, which mkdocs does not understand."""


def api_pages() -> dict[str, str]:
    """Page -> its Markdown: one page per package, with all of its modules that are not empty."""
    modules: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if path.stem == "__init__":
            if path.stat().st_size:
                modules.setdefault(".".join(parts[:-1]), []).insert(0, ".".join(parts[:-1]))
        elif path.stem != "__main__":
            modules.setdefault(".".join(parts[:-1]), []).append(".".join(parts))
    return {
        f"api/{package}.md": f"# {package}\n\n{BEGINNINGS.get(package, '')}"
        + "\n\n".join(f"::: {module}" for module in names)
        + "\n"
        for package, names in sorted(modules.items())
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the Python interface to the navigation."""
    config.nav.append({"Python interface": [{Path(page).stem: page} for page in api_pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files in ``docs``."""
    for page, source in COPIED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for page, content in api_pages().items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Point links to repository files at their pages on the site, if they have one."""
    for target, source in COPIED.items():
        markdown = markdown.replace(f"](../{source})", f"]({target})")
    return markdown


def on_page_content(html: str, **_: object) -> str:
    """Remove Sphinx roles, so that only the name is shown."""
    return ROLE.sub("", html)
