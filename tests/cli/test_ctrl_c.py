"""Ctrl-C in the middle of what takes long on thousands of clips: it ends there, quietly, and leaves nothing.

Each command runs in a process of its own and gets a real SIGINT at an event, not at a time.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the extra cli")

from iltools_datasets import build_store
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.cli import opened

CLIPS = 400

INTERRUPTED = """
import importlib, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as a terminal has it
from iltools_datasets.cli import main
where, name, at, *arguments = sys.argv[1:]
owner = importlib.import_module(where)
for part in name.split(".")[:-1]:
    owner = getattr(owner, part)
event, calls = getattr(owner, name.split(".")[-1]), 0
def watched(*given, **options):
    global calls
    calls += 1
    if calls == int(at):
        os.kill(os.getpid(), signal.SIGINT)
    return event(*given, **options)
setattr(owner, name.split(".")[-1], watched)
try:
    main(arguments)
finally:
    print(f"calls {calls}", file=sys.stderr)
"""

READING = [
    ("iltools_datasets.archive.listing", "_signals_get_through"),  # in a document of all clips
    ("iltools_datasets.archive.contents", "_spec"),
    ("iltools_datasets.archive.reader", "Trajectory"),
    ("iltools_datasets.cli.opened", "declared_rate"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    place = tmp_path_factory.mktemp("many")
    with ArchiveWriter(place / "a.zarr") as writer:
        for number in range(CLIPS):
            rows = rng.standard_normal((4, 3))
            attributes = {"fps": 25.0 * (1 + number % 2), "joint_names": ["hip", "knee", "ankle"]}
            writer.add("lab", f"m{number}", "t", {"joint_pos": rows, "joint_vel": rows}, attributes)
    build_store(place / "a.zarr", place / "store", ["joint_pos"], progress=False)
    return place


def interrupt(place: Path, where: str, name: str, at: int, *arguments: object) -> tuple[int, str, list[str]]:
    """Return the exit code, and what was written to both streams."""
    command = [sys.executable, "-c", INTERRUPTED, where, name, str(at), *map(str, arguments)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.mark.faults
@pytest.mark.parametrize("event", READING, ids=[name for _, name in READING])
@pytest.mark.parametrize("arguments", [("info",), ("view",), ("info", "--json"), ("view", "--json")], ids=" ".join)
def test_an_archive_that_is_looked_at(place: Path, event: tuple[str, str], arguments: tuple[str, ...]) -> None:
    code, out, err = interrupt(place, *event, 100, arguments[0], "a.zarr", *arguments[1:])
    assert (code, out) == (130, "")
    assert not any("Traceback" in line or "Interrupt" in line for line in err), err
    assert err[-1] == "calls 100"  # and not once more


@pytest.mark.faults
def test_the_files_of_an_archive(place: Path) -> None:
    code, out, err = interrupt(place, "os", "scandir", 300, "info", "a.zarr", "--json")
    assert (code, out, err[-1]) == (130, "", "calls 300")


@pytest.mark.faults
@pytest.mark.parametrize("verb", ["info", "view"])
def test_a_store_with_rates_and_names(place: Path, verb: str) -> None:
    code, out, err = interrupt(place, "iltools_datasets.cli.opened", "ClipInfo", 100, verb, "store", "--json")
    assert (code, out, err[-1]) == (130, "", "calls 100")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number in range(60):
        qpos = np.random.default_rng(number).standard_normal((5, 9))
        np.savez(tmp_path / f"plan{number}.npz", qpos=qpos, qvel=qpos[:, :8])
    return tmp_path


def is_emptied(directory: Path) -> bool:
    """Whether nothing is left there; what takes longer to remove than somebody waits for goes a little later."""
    deadline = time.monotonic() + 30
    while any(directory.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(directory.iterdir())


EXPORT = ("export", "auto", ".", "--out", "out/a.zarr")


@pytest.mark.faults
@pytest.mark.parametrize("at", [1, 100, 250, 300])
@pytest.mark.parametrize("more", [(), ("--json",), ("--layout", "packed"), ("--jobs", "2")], ids=" ".join)
def test_an_export_while_it_writes(raw: Path, at: int, more: tuple[str, ...]) -> None:
    at = min(at, 7) if "packed" in more else at
    code, out, err = interrupt(raw, "iltools_datasets.archive.targets", "DirectoryTarget.put", at, *EXPORT, *more)
    assert (code, out, err[-1]) == (130, "", f"calls {at}")
    assert not any("Traceback" in line for line in err), err
    assert is_emptied(raw / "out")


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each file is brought to disk by itself")
def test_an_export_that_waits_for_the_disk(raw: Path) -> None:
    """The signal comes from what brings everything to disk, which then never ends by itself."""
    commands = raw / "commands"
    commands.mkdir()
    os.mkfifo(raw / "never")
    (commands / "sync").write_text(f"#!/bin/sh\necho $$ > {raw}/pid\nkill -INT $PPID\nread line < {raw}/never\n")
    (commands / "sync").chmod(0o755)
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"from iltools_datasets.cli import main; main({list(EXPORT)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=raw, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    os.kill(int((raw / "pid").read_text()), signal.SIGKILL)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
    assert is_emptied(raw / "out")


@pytest.mark.faults
@pytest.mark.parametrize("verb", ["info", "view"])
@pytest.mark.parametrize("at", [100, 0], ids=["interrupted", "to its end"])
def test_nothing_is_freed_that_nobody_needs(place: Path, verb: str, at: int) -> None:
    """A command of its own process ends without the interpreter's end, and what it printed is all there."""
    code = f"""if True:
        import atexit, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit.register(print, "torn down", file=sys.stderr)
        from iltools_datasets.cli import main, opened
        calls = 0
        def watched(*given):
            global calls
            calls += 1
            if calls == {at}:
                signal.raise_signal(signal.SIGINT)
            return rate(*given)
        rate, opened.declared_rate = opened.declared_rate, watched
        sys.argv = ["iltools", {verb!r}, "a.zarr", "--json"]
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (130 if at else 0, "")
    assert (done.stdout == "") if at else json.loads(done.stdout)


@pytest.mark.faults
@pytest.mark.parametrize("verb", ["info", "view"])
def test_no_collection_holds_a_signal_back(
    place: Path, iltools: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The collector goes over all objects of an archive in one go; it rests, and works again for whoever called."""
    begun: list[str] = []
    while_opened: list[list[str]] = []
    module = importlib.import_module(f"iltools_datasets.cli.{verb}")

    def watch(phase: str, info: dict[str, int]) -> None:
        begun.append(phase)

    def watched(path: str) -> opened.Opened:
        begun.clear()
        found = opened.open_path(path)
        while_opened.append(list(begun))
        return found

    monkeypatch.setattr(module, "open_path", watched)
    gc.callbacks.append(watch)
    try:
        opened.open_path(str(place / "a.zarr"))
        assert begun  # or nothing is shown here
        assert iltools(verb, place / "a.zarr").code == 0
    finally:
        gc.callbacks.remove(watch)
    assert while_opened == [[]]
    assert gc.isenabled()


@pytest.mark.faults
@pytest.mark.parametrize("module", ["app", "info"])
def test_a_command_line_that_is_still_being_loaded(module: str) -> None:
    code = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'iltools_datasets.cli.{module}': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from iltools_datasets.cli import main; main(['info', 'x'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
