"""The documentation builds without warnings, fetches nothing external, and lists every option and module."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import sdst
from helpers.browser import CHROMIUM, Browser
from helpers.once import once
from sdst.config.compose import compose, conf_dir

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")

pytestmark = [pytest.mark.processes, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//|@import|url\(["']?(?:https?:)?//"""
)
LINKED = re.compile(
    r"""<link\b(?=[^>]*\brel=["'](?:stylesheet|preload|preconnect|icon))[^>]*href=["'](?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(out: Path) -> None:
        """Do what ``mkdocs build --strict`` does, in this process, because another would repeat all imports."""
        from mkdocs.commands.build import build
        from mkdocs.config import load_config

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NO_MKDOCS_2_WARNING", "1")
            config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(out))
            config.plugins.on_startup(command="build", dirty=False)
            build(config)
            config.plugins.on_shutdown()

    return once(tmp_path_factory, "site", make)


def text(page: Path) -> str:
    """Text of a page without its tags."""
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")).replace("&gt;", ">")


def keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")  # nothing for callbacks, which are empty by default
        elif key != "_target_":
            yield prefix + key


def test_pages_fetch_nothing_external(site: Path) -> None:
    pages = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(pages) > 25
    for page in pages:
        content = page.read_text(encoding="utf-8")
        assert not FETCHED.search(content), page
        assert not LINKED.search(content), page


def test_options_page_lists_every_option_with_its_default(site: Path) -> None:
    content = (site / "options.html").read_text(encoding="utf-8")
    rows = {
        key: (default, meaning)
        for key, default, meaning in re.findall(
            r"<tr>\s*<td><code>([\w.]+)</code></td>\s*<td>[^\n]*</td>\s*<td><code>(.*?)</code></td>\s*<td>(.*?)</td>",
            content,
        )
    }
    config = compose()
    plain = OmegaConf.to_container(config, resolve=False)
    for key in keys(plain):
        row = rows.get(key) or rows[key.rpartition(".")[0]]
        assert row[1].strip(), key
        if key not in rows:
            assert key.rpartition(".")[2] + ":" in row[0]
    assert rows["optim.lr"][0] == "0.0001"
    assert rows["model.sharing"][0] == "true"
    for path in [*(conf_dir() / "model").glob("*.yaml"), *(conf_dir() / "data").glob("*.yaml")]:
        assert f"{path.parent.name}={path.stem}" in text(site / "options.html")
    for name in ("bottleneck_ratio", "reduction", "see_padding"):  # options that only baseline models have
        assert f"model.{name}" in rows


def test_api_pages_list_every_module(site: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    source = Path(sdst.__file__).parent
    for path in source.rglob("*.py"):
        if path.stem not in {"__init__", "__main__"}:
            module = ".".join(path.relative_to(source.parent).with_suffix("").parts)
            assert f'id="{module}"' in pages, module
    assert 'id="sdst.inference.grounder.Grounder.predict"' in pages
    assert ":func:" not in pages


def test_site_contains_the_model_card_and_small_pictures(site: Path) -> None:
    assert "Architecture" in text(site / "small-backbone.html")
    for picture in (ROOT / "docs/images").glob("*.png"):
        assert picture.stat().st_size < 200_000
        assert (site / "images" / picture.name).is_file()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_wide_tables_scroll_inside_a_narrow_page_and_show_it(site: Path, tmp_path: Path) -> None:
    browser = Browser(tmp_path)
    try:
        browser.resize(400, 800)
        browser.open(site / "tables/table5.html")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.evaluate("window.wide = document.querySelector('.md-typeset__scrollwrap')")
        assert browser.evaluate("wide.scrollWidth > 2 * wide.clientWidth")
        style = "getComputedStyle(wide)"
        assert browser.evaluate(f"{style}.overflowX") == "auto"
        assert browser.evaluate(f"{style}.backgroundAttachment") == "local, local, scroll, scroll"
        see_through = "getComputedStyle(wide.querySelector('table')).backgroundColor"
        assert browser.evaluate(see_through) == "rgba(0, 0, 0, 0)"  # otherwise it would hide the shadows
    finally:
        browser.close()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_colours_follow_the_system_at_every_visit(site: Path, tmp_path: Path) -> None:
    browser = Browser(tmp_path)
    try:
        for wanted, scheme in (("light", "default"), ("dark", "slate"), ("light", "default")):
            features = [{"name": "prefers-color-scheme", "value": wanted}]
            browser.send("Emulation.setEmulatedMedia", features=features)
            browser.open(site / "index.html")
            browser.wait(f"document.body.dataset.mdColorScheme === '{scheme}'")
    finally:
        browser.close()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_browser_fetches_only_local_files(site: Path, tmp_path: Path) -> None:
    browser = Browser(tmp_path)
    try:
        for page in ("index.html", "options.html", "api/sdst.models.html"):
            browser.open(site / page)
            assert browser.fetched
            assert [url for url in browser.fetched if not url.startswith(("file:", "data:", "blob:"))] == []
    finally:
        browser.close()
