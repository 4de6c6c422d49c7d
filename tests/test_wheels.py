"""Wheels: what their audit lets through, links of the README on an index, and systems that none is for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from iltools_datasets import _core
from iltools_datasets._base.native import require_native

ROOT = Path(__file__).parent.parent


@pytest.fixture
def ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / ".ci")


def module(name: str) -> ModuleType:
    return __import__(name)


@pytest.mark.parametrize(
    ("name", "is_linux"),
    [
        ("iltools_datasets-0.1.0-cp311-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("iltools_datasets-0.1.0-cp311-abi3-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", True),
        ("iltools_datasets-0.1.0-cp311-abi3-macosx_11_0_arm64.whl", False),
        ("iltools_datasets-0.1.0-cp311-abi3-manylinux_2_34_x86_64.whl", None),
        ("iltools_datasets-0.1.0-cp311-abi3-linux_x86_64.whl", None),
        ("iltools_datasets-0.1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", None),
        ("iltools_datasets-0.1.0-cp311-abi3-manylinux_2_17_x86_64.manylinux2014_aarch64.whl", None),
        ("iltools_datasets-0.1.0-cp311-abi3-macosx_11_0_x86_64.whl", None),
        ("iltools_datasets-0.1.0-cp311-abi3-win_amd64.whl", None),
    ],
)
def test_one_wheel_for_each_platform_that_is_served(ci: None, name: str, is_linux: bool | None) -> None:
    check_name = module("check_wheel").check_name
    if is_linux is None:
        with pytest.raises(SystemExit, match=re.escape(name)):
            check_name(Path("dist") / name)
    else:
        assert check_name(Path("dist") / name) == is_linux


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
def test_the_newest_glibc_that_is_asked_for(ci: None) -> None:
    pytest.importorskip("elftools", reason="an auditor of wheels, which `make wheel` installs")
    if shutil.which("objdump") is None:
        pytest.skip("needs objdump")
    library = Path(_core.__file__)
    listed = subprocess.run(["objdump", "-T", library], check=True, capture_output=True, text=True).stdout
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([0-9.]+)", listed)}
    assert module("check_wheel").needed_glibc(library.read_bytes()) == max(versions)


def test_links_of_the_readme_lead_somewhere_on_an_index(ci: None) -> None:
    readme = (ROOT / "README.md").read_text()
    relative = [path.partition("#")[0] for path in re.findall(r"\]\((?!\w+:|#)([^)\s]+)\)", readme)]
    assert len(relative) > 20
    for path in relative:
        assert (ROOT / path).exists(), path
    home = "https://host.example/owner/name"
    changed = module("absolute_links").with_absolute_links(readme, home, "v1.2.3")
    assert re.findall(r"\]\((?!https://|#)([^)]*)\)", changed) == []
    assert f"[sources]({home}/blob/v1.2.3/docs/sources.md)" in changed
    assert f"({home}/raw/v1.2.3/docs/motion.gif)" in changed
    assert re.sub(rf"{home}/(blob|raw)/v1.2.3/", "", changed) == readme


def test_a_release_says_where_it_is_at_home(ci: None) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    changed = tomllib.loads(module("absolute_links").with_urls(project, "https://host.example/a/b", "v1"))
    urls = changed["project"].pop("urls")
    assert urls["Repository"] == "https://host.example/a/b"
    assert urls["Changelog"] == "https://host.example/a/b/blob/v1/CHANGELOG.md"
    assert changed == tomllib.loads(project)


def test_a_system_that_is_not_served_is_told_so() -> None:
    code = "import sys; sys.platform = 'win32'; import iltools_datasets"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: iltools-datasets runs on Linux and macOS, not on Win")


def test_a_source_tree_that_was_not_built_says_what_to_do(tmp_path: Path) -> None:
    source = Path(sys.modules["iltools_datasets"].__file__ or "").parent
    shutil.copytree(source, tmp_path / "iltools_datasets", ignore=shutil.ignore_patterns("_core*.so", "__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import iltools_datasets"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert told.startswith("ImportError: the native module iltools_datasets._core is missing")
    assert "`make build`" in told
    require_native()  # and here it is there
