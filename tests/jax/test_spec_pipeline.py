"""Steps 1, 2, 3 and 5 of the documented pipeline, from npz files to a jitted step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="needs the jax extra")
import jax.numpy as jp  # noqa: E402
from iltools_datasets.storage import VectorizedTrajectoryDataset  # noqa: E402
from iltools_datasets.trajopt.loader import TrajoptLoader  # noqa: E402
from iltools_datasets.windows.source import WindowSource  # noqa: E402

pytestmark = pytest.mark.jax

LENGTHS = [70, 33, 120, 64, 51, 88, 97, 40]


@pytest.fixture
def clips() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    widths = {"qpos": 61, "qvel": 61, "action": 20}  # the documented step adds qpos to qvel
    return [{key: rng.standard_normal((n, w), np.float32) for key, w in widths.items()} for n in LENGTHS]


@pytest.fixture
def zarr_path(tmp_path: Path, clips: list[dict[str, np.ndarray]]) -> Any:
    (tmp_path / "npz").mkdir()
    for number, clip in enumerate(clips):
        np.savez(tmp_path / "npz" / f"traj{number}.npz", **clip, dt=0.01)
    return TrajoptLoader(tmp_path / "npz").save(out_dir=tmp_path / "zarr", dataset_source="trajopt", motion="digit_v3")


def expected_window(clips: list[dict[str, np.ndarray]], key: str, num_envs: int, window: int, n: int) -> np.ndarray:
    return np.stack([clips[e % 8][key][(n * window + np.arange(window)) % LENGTHS[e % 8]] for e in range(num_envs)])


def body(carry: Any, inputs: Any) -> tuple[Any, float]:
    qpos_t, qvel_t = inputs
    return carry + jp.sum(qpos_t * 0.0 + qvel_t * 0.0), 0.0


def test_the_pipeline_as_documented(zarr_path: Any, clips: list[dict[str, np.ndarray]]) -> None:
    omegaconf = pytest.importorskip("omegaconf", reason="the documented configuration is an OmegaConf object")
    from iltools_datasets.jax_stream import DoubleBufferStreamer

    num_envs, window = 64, 32
    cfg = omegaconf.OmegaConf.create({"window_size": window, "buffer_size": 128, "allow_wrap": True})
    ds = VectorizedTrajectoryDataset(zarr_path=zarr_path, num_envs=num_envs, cfg=cfg)
    ds.update_references(env_to_traj={e: e % 8 for e in range(num_envs)}, env_to_step=dict.fromkeys(range(num_envs), 0))

    def host_fetch_window() -> dict[str, np.ndarray]:
        batch = {
            "qpos": ds.fetch_window(range(num_envs), key="qpos", window_size=window),
            "qvel": ds.fetch_window(range(num_envs), key="qvel", window_size=window),
        }
        ds.update_references(env_to_step={e: ds.env_steps[e] + window for e in range(num_envs)})
        return batch

    @jax.jit
    def train_step(batch: dict[str, Any]) -> Any:
        qpos = jp.moveaxis(batch["qpos"], 1, 0)
        qvel = jp.moveaxis(batch["qvel"], 1, 0)
        carry, _ = jax.lax.scan(body, 0.0, (qpos, qvel))
        return carry

    streamer = DoubleBufferStreamer(window_fn=host_fetch_window)
    streamer.start()
    for n in range(12):
        batch = streamer.next_window()
        for key in ("qpos", "qvel"):
            np.testing.assert_array_equal(batch[key], expected_window(clips, key, num_envs, window, n))
        assert float(train_step(batch)) == 0
    streamer.stop()
    assert train_step._cache_size() == 1


@pytest.mark.parametrize("cfg", [{"window_size": 32, "buffer_size": 128, "allow_wrap": True}])
def test_the_same_windows_from_a_source(zarr_path: Any, clips: list[dict[str, np.ndarray]], cfg: Any) -> None:
    from iltools_datasets.jax_stream import DoubleBufferStreamer

    ds = VectorizedTrajectoryDataset(zarr_path=zarr_path, num_envs=16, cfg=cfg)
    source = WindowSource(ds, ["qpos", "qvel"], 32, {e: e % 8 for e in range(16)})
    with DoubleBufferStreamer(source) as streamer:
        for n in range(12):
            batch = streamer.next_window()
            for key in ("qpos", "qvel"):
                np.testing.assert_array_equal(batch[key], expected_window(clips, key, 16, 32, n))
