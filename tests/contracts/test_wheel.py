"""The wheel contains exactly the package with its data, Hydra's plugin, the configuration and the experiments."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sdst.files import shipped
from sdst.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    assert path.name == f"sdst-{__version__}-py3-none-any.whl"
    return zipfile.ZipFile(path)


def test_wheel_contains_package_data_configuration_and_experiments(
    wheel: zipfile.ZipFile,
) -> None:
    package = {
        path.relative_to(ROOT / "src"): path
        for part in ("sdst", "hydra_plugins")
        for path in (ROOT / "src" / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    moved = {
        "sdst" / path.relative_to(ROOT): path
        for path in [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "experiments").glob("*.yaml")]
    }
    files = {name.as_posix(): path.read_bytes() for name, path in {**package, **moved}.items()}
    built = {name: wheel.read(name) for name in wheel.namelist() if not name.startswith("sdst-")}
    assert built.keys() == files.keys()
    assert built == files
    assert "hydra_plugins/sdst_jobs.py" in built
    for name in ("conf/train.yaml", "experiments/table1.yaml", "features/small_world/weights.safetensors"):
        assert f"sdst/{name}" in built


def test_shipped_folder_is_found_in_the_repository_or_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped.shipped_folder("conf") == ROOT / "conf"
    installed = tmp_path / "site-packages" / "sdst"
    (tmp_path / "conf").mkdir()  # unrelated folder of the same name
    monkeypatch.setattr(shipped, "PACKAGE", installed)
    assert shipped.shipped_folder("conf") == installed / "conf"
