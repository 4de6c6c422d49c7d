"""Exports by several processes: the archive of one process, bit for bit, and nothing half-written after an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from iltools_datasets.errors import IltoolsError, SourceError
from iltools_datasets.sources import export
from iltools_datasets.sources.protocol import Recording, Source, SourceFile
from iltools_datasets.sources.registry import open_sources


def raw(directory: Path, count: int = 7) -> Path:
    directory.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        rows = rng.standard_normal((20 + number, 36)).cumsum(axis=0) / 50
        rows[:, 3:7] = [0.0, 0.0, 0.0, 1.0]
        np.savetxt(directory / f"walk{number}_30hz.csv", rows, delimiter=",", fmt="%.9f")
    for number in range(2):
        qpos = rng.standard_normal((5, 9))
        np.savez(directory / f"plan{number}.npz", qpos=qpos, qvel=qpos[:, :8], action=qpos[:-1, :2])
    return directory


def content(archive: Path) -> dict[str, bytes]:
    return {str(file.relative_to(archive)): file.read_bytes() for file in archive.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("layout", "fps", "most"), [("nested", None, None), ("packed", None, None), ("nested", 50.0, 3)]
)
def test_the_archive_is_that_of_one_process(tmp_path: Path, layout: str, fps: float | None, most: int | None) -> None:
    directory = raw(tmp_path / "raw")
    reports = []
    for jobs in (1, 3):
        sources = open_sources([directory], "unitree-csv" if fps else "auto", motion="walk" if most else None)
        options = {"layout": layout, "fps": fps, "max_trajectories_per_motion": most}
        reports.append(export(sources, tmp_path / f"{jobs}.zarr", jobs=jobs, **options))  # type: ignore[arg-type]
    assert content(tmp_path / "1.zarr") == content(tmp_path / "3.zarr")
    assert reports[0].notes == reports[1].notes
    assert reports[0].notes
    assert (reports[0].formats, reports[0].trajectory_lengths) == (reports[1].formats, reports[1].trajectory_lengths)


def test_a_file_that_cannot_be_read_is_the_same_error(tmp_path: Path) -> None:
    directory = raw(tmp_path / "raw")
    bad = directory / "walk3_30hz.csv"
    bad.write_text(bad.read_text().replace(",", ",x", 1))
    messages = []
    for jobs in (1, 3):
        with pytest.raises(IltoolsError) as raised:
            export(open_sources([directory], "unitree-csv"), tmp_path / "a.zarr", jobs=jobs)
        messages.append((type(raised.value), str(raised.value)))
        assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    assert messages[0] == messages[1]
    reports = [
        export(open_sources([directory], "unitree-csv"), tmp_path / f"{jobs}.zarr", jobs=jobs, keep_going=True)
        for jobs in (1, 3)
    ]
    assert reports[0].failures == reports[1].failures
    assert content(tmp_path / "1.zarr") == content(tmp_path / "3.zarr")
    with pytest.raises(IltoolsError, match="jobs"):
        export(open_sources([directory], "unitree-csv"), tmp_path / "a.zarr", jobs=0)


class Deadly(Source):
    """Its second file kills whoever reads it."""

    format = "deadly"
    summary = "for this test"
    suffixes = (".csv",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return False

    def read(self, file: SourceFile) -> Iterator[Recording]:
        yield Recording({"q": np.loadtxt(file.path, delimiter=",")})
        if "walk1" in file.path.name:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_reader_that_is_killed_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    directory = raw(tmp_path / "raw")
    with pytest.raises(SourceError, match=r"walk1_30hz\.csv: the process that read it was killed by signal 9"):
        export(Deadly(directory), tmp_path / "a.zarr", jobs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    report = export(Deadly(directory), tmp_path / "a.zarr", jobs=2, keep_going=True)
    assert [failure.path.name for failure in report.failures] == ["walk1_30hz.csv"]
    assert report.formats == {"deadly": 6}


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_an_interrupt_ends_all_processes_and_leaves_nothing(tmp_path: Path) -> None:
    directory = raw(tmp_path / "raw", 60)
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as a terminal has it
        "import sys; from pathlib import Path; from iltools_datasets.sources import export\n"
        "from iltools_datasets.sources.registry import open_sources\n"
        "def said(done, total, path):\n"
        "    if done == 20: print('here', flush=True); import time; time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    export(open_sources([sys.argv[1]], 'unitree-csv'), sys.argv[2], jobs=2, progress=said)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script), str(directory), str(tmp_path / "a.zarr")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert told.count("KeyboardInterrupt") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "script.py"]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = [
            pid
            for pid in (entry.name for entry in Path("/proc").iterdir())
            if pid.isdigit() and _session_of(pid) == process.pid
        ]
        if not left:
            return
    raise AssertionError(f"processes are left: {left}")


def _session_of(pid: str) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])
    except (FileNotFoundError, ProcessLookupError):
        return None
