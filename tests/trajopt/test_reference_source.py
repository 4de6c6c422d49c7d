"""References for the envs that reset: from an archive, from files, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from iltools_datasets.errors import (
    MissingKeyError,
    OutOfRangeError,
    SchemaError,
    SourceError,
    SourceNotFoundError,
    UnknownSegmentError,
)
from iltools_datasets.trajopt.digit_refs import DigitRefSpec, build_refs_from_window
from iltools_datasets.trajopt.loader import TrajoptLoader
from iltools_datasets.trajopt.reference_source import ReferenceSource

LENGTHS = [30, 7, 18]
NUM_ENVS = 5
Clip = dict[str, np.ndarray]


def write_files(path: Path, seed: int = 0) -> list[Clip]:
    rng = np.random.default_rng(seed)
    path.mkdir()
    clips = []
    for number, steps in enumerate(LENGTHS):
        shapes = {"qpos": (steps, 10), "qvel": (steps, 9), "ee_pos": (steps, 5, 3)}
        clips.append({key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()})
        np.savez(path / f"traj{number}.npz", **clips[-1], action=np.zeros((steps, 2), np.float32))
    return clips


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Clip]]:
    """Files, an archive of the same, and what is in them."""
    path = tmp_path_factory.mktemp("references")
    clips = write_files(path / "npz")
    return path / "npz", TrajoptLoader(path / "npz").save(path / "zarr", motion="digit_v3"), clips


def expected_refs(clips: list[Clip], traj: int, step: int, spec: DigitRefSpec, window: int) -> Clip:
    """The references of what is left of the trajectory, cut to the window, the last row repeated."""
    left = {key: value[step:] for key, value in clips[traj].items()}
    refs = build_refs_from_window(spec=spec, **left)
    own = min(int(refs.pop("ref_len")), window)
    rows = {key: np.stack([value[min(t, own - 1)] for t in range(window)]) for key, value in refs.items()}
    return rows | {"ref_len": np.int32(own)}


resets = st.lists(st.tuples(st.integers(0, len(LENGTHS) - 1), st.integers(0, 29)), min_size=1, max_size=NUM_ENVS)


@pytest.mark.parametrize("kind", ["zarr", "npz"])
@given(cases=st.lists(resets, min_size=1, max_size=3), window=st.integers(1, 12), subsample=st.integers(1, 4))
def test_resets_from_either_kind(
    data: tuple[Path, str, list[Clip]], kind: str, cases: list[list[tuple[int, int]]], window: int, subsample: int
) -> None:
    files, archive, clips = data
    spec = DigitRefSpec([7, 9], [6, 8], subsample)
    paths = {"zarr_path": archive} if kind == "zarr" else {"ref_path": files}
    with ReferenceSource(**paths, spec=spec, window=window, num_envs=NUM_ENVS) as source:
        assert source.traj_lengths == LENGTHS
        for places in cases:
            traj = [k for k, _ in places]
            steps = [step % LENGTHS[k] for k, step in places]
            env_ids = list(range(NUM_ENVS))[::-1][: len(places)]
            refs = source.reset(env_ids, traj, steps)
            for row, (k, step) in enumerate(zip(traj, steps, strict=True)):
                expected = expected_refs(clips, k, step, spec, window)
                assert set(refs) == set(expected)
                for key, value in expected.items():
                    np.testing.assert_allclose(refs[key][row], value, rtol=1e-6, atol=1e-6, err_msg=key)


def test_the_archive_is_preferred_and_the_files_are_the_fallback(
    data: tuple[Path, str, list[Clip]], tmp_path: Path
) -> None:
    files, archive, _ = data
    options = {"spec": DigitRefSpec([7], [6]), "window": 4, "num_envs": 2}
    with ReferenceSource(archive, files, **options) as source:
        assert source.origin == archive
    with ReferenceSource(tmp_path / "not-yet.zarr", files, **options) as source:
        assert source.origin == str(files)
    with pytest.raises(SourceError, match="give zarr_path"):
        ReferenceSource(**options)
    with pytest.raises(SourceNotFoundError, match=r"zarr_path: .*a\.zarr.*; ref_path: .*b"):
        ReferenceSource(tmp_path / "a.zarr", tmp_path / "b", **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty: no \.npz files"):
        ReferenceSource(tmp_path / "a.zarr", tmp_path / "empty", **options)


@pytest.mark.parametrize("kind", ["zarr", "npz"])
def test_bad_resets_change_nothing(data: tuple[Path, str, list[Clip]], kind: str) -> None:
    files, archive, _ = data
    paths = {"zarr_path": archive} if kind == "zarr" else {"ref_path": files}
    with ReferenceSource(**paths, spec=DigitRefSpec([7], [6]), window=3, num_envs=2) as source:
        before = source.reset([0, 1], [2, 1], [3, 0])
        with pytest.raises(OutOfRangeError, match=r"env 2 is outside \[0, 2\)"):
            source.reset([2], [0])
        with pytest.raises(UnknownSegmentError, match="env 1: no trajectory 3 of 3"):
            source.reset([0, 1], [0, 3])
        with pytest.raises(OutOfRangeError, match=r"env 0: step 7 of trajectory 1 is outside \[0, 7\)"):
            source.reset([0], [1], [7])
        with pytest.raises(SchemaError, match="each env once"):
            source.reset([0, 0], [0, 1])
        with pytest.raises(SchemaError, match="as many trajectories and steps as envs: 2, 1, 2"):
            source.reset([0, 1], [0])
        with pytest.raises(SchemaError, match="traj_ids: expected integers"):
            source.reset([0], [0.5])
        after = source.reset([0, 1], [2, 1], [3, 0])
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)
    with pytest.raises(SchemaError, match="window: expected 1 or more, found 0"):
        ReferenceSource(**paths, spec=DigitRefSpec([7], [6]), window=0, num_envs=2)
    with (
        ReferenceSource(**paths, spec=DigitRefSpec([10], [6]), window=3, num_envs=2) as source,
        pytest.raises(OutOfRangeError, match="qpos: a_pos_index expects 11 columns or more, found 10"),
    ):
        source.reset([0], [0])


@pytest.mark.parametrize("kind", ["zarr", "npz"])
def test_end_effectors_that_only_some_trajectories_have(tmp_path: Path, kind: str) -> None:
    clips = write_files(tmp_path / "npz")
    np.savez(
        tmp_path / "npz" / "traj1.npz", qpos=clips[1]["qpos"], qvel=clips[1]["qvel"], action=np.zeros((7, 2), "f4")
    )
    if kind == "zarr":
        paths = {"zarr_path": TrajoptLoader(tmp_path / "npz").save(tmp_path / "zarr", motion="digit_v3")}
    else:
        paths = {"ref_path": str(tmp_path / "npz")}
    with (
        ReferenceSource(**paths, spec=DigitRefSpec([7], [6]), window=3, num_envs=2) as source,
        pytest.raises((MissingKeyError, SchemaError), match="ee_pos"),
    ):
        source.reset([0, 1], [0, 1])


EXAMPLE = Path(__file__).parents[2] / "examples" / "digit_reference_env.py"


@pytest.mark.parametrize("kind", [None, "--zarr-path", "--ref-path"])
def test_the_example(kind: str | None, tmp_path: Path) -> None:
    arguments = ["--num-envs", "6", "--steps", "60"]
    if kind is not None:
        sys.path.insert(0, str(EXAMPLE.parent))
        try:
            from digit_reference_env import write_walks
        finally:
            sys.path.remove(str(EXAMPLE.parent))
        write_walks(tmp_path / "npz")
        archive = TrajoptLoader(tmp_path / "npz").save(tmp_path / "zarr", motion="digit_v3")
        arguments += [kind, archive if kind == "--zarr-path" else str(tmp_path / "npz")]
    command = [sys.executable, str(EXAMPLE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "60 steps of 6 envs" in done.stdout


@pytest.mark.jax
def test_the_page_on_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jax", reason="needs the jax extra")
    page = Path(__file__).parents[2] / "docs" / "digit.md"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, page.name, "exec"), names)
    assert capsys.readouterr().out == "[20 12]\n"
