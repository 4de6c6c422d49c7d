"""Who uses whom in the Rust core: no circle of files within a folder, none of folders and files at the top."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "rust" / "core" / "src"


def uses(text: str, prefix: str) -> set[str]:
    """First names of the paths under `prefix::` that a file uses, its tests left out."""
    code = re.split(r"^#\[cfg\(test\)\]\s*mod tests", re.sub(r"//.*", "", text), flags=re.MULTILINE)[0]
    grouped = re.findall(rf"\b{prefix}::\{{([^;]*?)\}};", code, flags=re.DOTALL)
    names = {part.strip() for group in grouped for part in re.sub(r"\{[^}]*\}", "", group).split(",")}
    return {name.partition("::")[0] for name in names | set(re.findall(rf"\b{prefix}::(\w+)", code))}


def within(folder: Path) -> dict[str, set[str]]:
    files = {file.stem: file.read_text() for file in folder.glob("*.rs") if file.stem != "mod"}
    return {name: uses(text, "super") & set(files) for name, text in files.items()}


def at_the_top(source: Path) -> dict[str, set[str]]:
    rooms = {
        path.stem: sorted(path.glob("*.rs")) if path.is_dir() else [path]
        for path in source.iterdir()
        if path.stem != "lib"
    }
    return {
        name: {used for file in files for used in uses(file.read_text(), "crate") if used in rooms} - {name}
        for name, files in rooms.items()
    }


def test_no_circle() -> None:
    graphs = [at_the_top(SRC), *(within(folder) for folder in SRC.iterdir() if folder.is_dir())]
    assert all(any(graph.values()) for graph in graphs)
    for graph in graphs:
        TopologicalSorter(graph).prepare()


def test_a_circle_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.rs").write_text("use super::{\n    X,\n    b::{C, D},\n};\n")
    (tmp_path / "b.rs").write_text("fn f() { super::a::g() }\n")
    with pytest.raises(CycleError):
        TopologicalSorter(within(tmp_path)).prepare()
    (tmp_path / "b.rs").write_text("//! As `super::a`.\n#[cfg(test)]\nmod tests { use super::a; }\n")
    TopologicalSorter(within(tmp_path)).prepare()
