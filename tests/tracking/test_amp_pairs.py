"""The example's pairs for a discriminator: uniform by time, a control step apart, and enough to tell the pace."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")

from iltools_datasets.motion.lookup import MotionLookup  # noqa: E402

EXAMPLES = str(Path(__file__).parents[2] / "examples")
pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_thread")]
CONTROL_DT = 0.02


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, EXAMPLES)
    try:
        import amp_discriminator
    finally:
        sys.path.remove(EXAMPLES)
    return amp_discriminator


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(scope="module")
def clips(example, tmp_path_factory):
    return example.write_clips(tmp_path_factory.mktemp("clips") / "store")


def test_each_second_is_as_likely_as_any_other(example, clips, device):
    pairs = example.MotionPairs(clips, CONTROL_DT, device=device)
    clip, time = (drawn.cpu().numpy() for drawn in pairs.places(100_000))
    seconds = clips.segments.length / 30 - CONTROL_DT
    assert (time >= 0).all()
    assert (time <= seconds[clip]).all()
    # 20 parts of each clip, which are as likely as the clip is long.
    counts = np.zeros((len(seconds), 20))
    np.add.at(counts, (clip, np.minimum(20 * time / seconds[clip], 19).astype(int)), 1)
    expected = np.repeat(seconds / seconds.sum() / 20, 20) * len(clip)
    assert stats.chisquare(counts.ravel(), expected).pvalue > 0.001
    again = example.MotionPairs(clips, CONTROL_DT, device=device).places(100_000)
    np.testing.assert_array_equal(again[1].cpu().numpy(), time)


def test_pairs_are_what_the_host_looks_up(example, clips, device):
    pairs = example.MotionPairs(clips, CONTROL_DT, device=device)
    clip, time = pairs.places(500)
    found = pairs.features(clip, time).cpu().numpy()
    host = MotionLookup(clips, example.KEYS, anchor="pelvis", frame="heading")
    wanted = host.at(clip.cpu().numpy(), time.cpu().numpy(), [0, CONTROL_DT])
    assert wanted["valid"].all()
    assert found.shape == (500, 2, 8 + 8 + 18)
    np.testing.assert_allclose(
        found, np.concatenate([wanted[key].reshape(500, 2, -1) for key in example.KEYS], -1), rtol=1e-6, atol=1e-5
    )


def test_the_pace_is_told_by_pairs(example, clips):
    motion, slow = example.train(clips, "cpu", 80)
    assert motion > 0.8
    assert slow < 0.4
