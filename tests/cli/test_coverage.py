"""`iltools info` and `iltools view` with `--coverage`: what a sampler saw of a store."""

from __future__ import annotations

import numpy as np
import pytest
from iltools_datasets.errors import StateError
from iltools_datasets.tracking import MotionSampler
from iltools_datasets.tracking.saved_coverage import saved_coverage
from tracking_cases import World, time_store

pytest.importorskip("typer", reason="needs the cli extra")

pytestmark = pytest.mark.filterwarnings("ignore::iltools_datasets.tracking.coverage.CoverageWarning")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, small_store):
    path = tmp_path_factory.mktemp("saved") / "state.npz"
    sampler = MotionSampler(small_store, 50, 0.2, clip_weights=[1, 0, 1, 1])
    World(sampler, 20).run(50, lambda _, bins: np.where(bins > 9, 0.5, 0.0))
    sampler.dumps(path)
    return path, sampler


@pytest.fixture(scope="module")
def small_store(tmp_path_factory):
    """Clips of 4, 2.6, 0.1 and 7.4 seconds: the third is too short for steps of 0.2 s."""
    return time_store(tmp_path_factory.mktemp("small") / "store", [4.0, 2.6, 0.1, 7.4])


def test_a_saved_coverage_is_that_of_the_sampler(saved, small_store):
    path, sampler = saved
    found, wanted = saved_coverage(path, small_store), sampler.coverage()
    assert repr(found) == repr(wanted)
    assert "made/clip1: has weight 0" in repr(found)
    np.testing.assert_array_equal(found.probabilities, wanted.probabilities)
    np.testing.assert_array_equal(found.visits, wanted.visits)


def test_of_a_mixture_it_is_the_store_s_part(small_store, tmp_path):
    runs = time_store(tmp_path / "runs", [3.0, 9.0], fps=20.0)
    sampler = MotionSampler({"walks": small_store, "runs": runs}, 50, 0.2)
    World(sampler, 20).run(50, lambda _, bins: np.full(len(bins), 0.1))
    sampler.dumps(tmp_path / "state.npz")
    whole = sampler.coverage()
    walks, runs_ = (saved_coverage(tmp_path / "state.npz", store) for store in (small_store, runs))
    assert runs_.clip_names == ["made/clip0", "made/clip1"]
    np.testing.assert_array_equal(np.concatenate([walks.visits, runs_.visits]), whole.visits)
    assert runs_.bin_clip.tolist() == [0] * 3 + [1] * 9
    assert walks.left_out == {"made/clip2": "is shorter than a control step"}
    other = time_store(tmp_path / "other", [3.0])
    with pytest.raises(StateError, match="is of the builds"):
        saved_coverage(tmp_path / "state.npz", other)


def test_info_and_view(iltools, saved, small_store):
    path, sampler = saved
    said = iltools("info", small_store.path, "--coverage", path)
    assert said.code == 0, said.err
    assert sampler.coverage().never("visited")[1].tolist() == []  # bins of a clip that is out are not missed
    for words in ("coverage of state.npz", "never visited", "made/clip2: is shorter than a control step"):
        assert words in said.out
    document = iltools("info", small_store.path, "--coverage", path, "--json").json
    assert document["bins"]["visits"] == sampler.coverage().visits.tolist()
    assert document["metrics"]["unseen_clips"] == 0
    drawn = iltools("view", small_store.path, "--coverage", path)
    assert drawn.code == 0, drawn.err
    assert "made/clip3" in drawn.out
    assert "█" in drawn.out


def test_view_writes_a_picture(iltools, saved, small_store, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the view extra")
    drawn = iltools("view", small_store.path, "--coverage", saved[0], "--out", tmp_path / "coverage.png")
    assert drawn.code == 0, drawn.err
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_state_or_no_store_is_said(iltools, saved, small_store, tmp_path):
    (tmp_path / "text").write_text("state")
    for arguments in (
        (small_store.path, "--coverage", tmp_path / "none.npz"),
        (small_store.path, "--coverage", tmp_path / "text"),
        (tmp_path, "--coverage", saved[0]),
    ):
        for verb in ("info", "view"):
            said = iltools(verb, *arguments)
            assert said.code == 2
            assert str(arguments[-1]) in said.err or str(tmp_path) in said.err
            assert "Traceback" not in said.err
