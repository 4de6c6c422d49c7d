"""The package as it is installed: light to import, versioned once, typed, and clear about what is missing."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path

import iltools_datasets
import pytest
from iltools_datasets import _core
from iltools_datasets.errors import MissingExtraError

ROOT = Path(__file__).parent.parent


def run_python(code: str) -> str:
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def loaded_by(module: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after importing one."""
    return set(run_python(f"import {module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})").split())


def test_importing_loads_no_framework() -> None:
    heavy = {"torch", "tensordict", "torchrl", "jax", "zarr", "typer", "rich", "matplotlib", "scipy"}
    assert not loaded_by("iltools_datasets") & heavy


def test_the_store_loads_neither_torch_nor_zarr() -> None:
    assert not loaded_by("iltools_datasets.store.trajectory_store") & {"torch", "jax", "zarr"}


def test_following_motion_loads_neither_torch_nor_jax() -> None:
    assert not loaded_by("iltools_datasets.tracking") & {"torch", "tensordict", "jax", "zarr", "scipy"}


def test_every_public_name_resolves() -> None:
    for name in iltools_datasets.__all__:
        try:
            assert getattr(iltools_datasets, name) is not None
        except MissingExtraError as error:
            framework = re.search(r"iltools-datasets\[(torch|jax)\]", str(error))
            assert framework is not None
            assert find_spec(framework[1]) is None
    assert set(iltools_datasets.__all__) <= set(dir(iltools_datasets))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = iltools_datasets.nonsense


def test_one_version() -> None:
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert iltools_datasets.__version__ == _core.__version__ == version("iltools-datasets") == workspace


BASE = {"numpy", "zarr", "numcodecs", "google-crc32c", "array-api-compat"}
DISTRIBUTIONS = {
    "array_api_compat": "array-api-compat",
    "PIL": "pillow",
    "rerun": "rerun-sdk",
    "google_crc32c": "google-crc32c",
    "ml_dtypes": "ml_dtypes",
}


def imported() -> dict[str, set[str]]:
    """Third-party top-level packages that some file imports, and the files."""
    found: dict[str, set[str]] = {}
    package = Path(iltools_datasets.__file__).parent
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"iltools_datasets"}:
                found.setdefault(name, set()).add(file.relative_to(package).parts[0])
    return found


def declared(lines: Iterable[str]) -> set[str]:
    return {re.split(r"[<>=\[; ]", line, maxsplit=1)[0].lower() for line in lines}


def test_whatever_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = declared(project["dependencies"])
    anywhere = base.union(*(declared(lines) for lines in project["optional-dependencies"].values()))
    for name, files in imported().items():
        distribution = DISTRIBUTIONS.get(name, name).lower()
        assert distribution in anywhere, (name, files)
        assert distribution in base or not files & {"archive", "store", "doctor", "motion", "ingest"}, (name, files)
    assert base == BASE
    assert "numcodecs>=0.16.6" in project["dependencies"]  # older ones unpickle


def test_base_dependencies_are_few() -> None:
    base = [line for line in requires("iltools-datasets") or () if "extra ==" not in line]
    assert declared(base) == BASE


def test_the_package_is_typed() -> None:
    assert (Path(iltools_datasets.__file__).parent / "py.typed").exists()


HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.parametrize(
    ("module", "hidden", "extra"),
    [
        ("iltools_datasets.torchrl", ("torch", "tensordict", "torchrl"), "torch"),
        ("iltools_datasets.replay_manager", ("torch", "tensordict", "torchrl"), "torch"),
        ("iltools_datasets.replay_export", ("torch", "tensordict", "torchrl"), "torch"),
        ("iltools_datasets.replay_memmap", ("torch", "tensordict", "torchrl"), "torch"),
        ("iltools_datasets.reference", ("torch", "tensordict", "torchrl"), "torch"),
    ],
)
def test_a_part_without_its_extra_names_it(module: str, hidden: tuple[str, ...], extra: str) -> None:
    code = (
        HIDE.format(hidden=hidden)
        + f"""
from iltools_datasets.errors import MissingExtraError
try:
    import {module}
except MissingExtraError as error:
    print(error)
"""
    )
    assert f"iltools-datasets[{extra}]" in run_python(code)


@pytest.mark.parametrize(
    ("arguments", "hidden", "extra"),
    [
        (["--help"], ("typer",), "cli"),
        (["info", "."], ("rich",), "cli"),
        (["demo"], ("torch", "tensordict", "torchrl"), "torch"),
    ],
)
def test_a_command_without_its_extra_names_it(arguments: list[str], hidden: tuple[str, ...], extra: str) -> None:
    code = HIDE.format(hidden=hidden) + f"from iltools_datasets.cli import main; main({arguments!r})"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 2, outcome.stderr
    assert f"[{extra}]" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_no_folder_of_tests_is_taken_for_a_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/jax` would be `import jax` where that is not installed, and tests that need it would not skip."""
    monkeypatch.syspath_prepend(ROOT / "tests")
    for room in ("faults", "jax", "lerobot", "support"):
        assert (ROOT / "tests" / room).is_dir()
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests")])
    for name in ("jax", "lerobot"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        assert find_spec(name) is None
    assert find_spec("conftest") is not None


@pytest.mark.parametrize("what", ["", "test_find.py"])
def test_the_tests_of_lerobot_data_are_skipped_without_its_extra(tmp_path: Path, what: str) -> None:
    """Named on the command line, the folder's conftest is imported before pytest could skip anything."""
    (tmp_path / "hide_pyarrow.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'pyarrow':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "hide_pyarrow", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, ROOT / "tests" / "lerobot" / what],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "needs the extra data: there is no pyarrow" in done.stdout, done.stdout + done.stderr
    assert done.returncode in (0, 5)  # 5: nothing was run


def test_no_two_files_of_tests_have_one_name() -> None:
    """They are imported by it: a second one would end every run over all of them."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_every_row_of_the_fault_table_has_a_test_and_every_test_a_row() -> None:
    """`make test-faults` stops at the first that has none; this says so without running them."""
    table = (ROOT / "tests" / "faults" / "fault_table.py").read_text()
    rows = set(re.findall(r'^        "([^"]+)": "', table, re.MULTILINE))
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    marks = [mark for source in sources for mark in re.findall(r"@pytest\.mark\.faults\(([^)]*)\)", source)]
    assert rows == {row for mark in marks for row in re.findall(r'"([^"]+)"', mark)}
