"""Loaders after JAX has computed, over many batches, at the interpreter's end, across a fork, and under Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="needs the jax extra")

pytestmark = pytest.mark.jax

PREAMBLE = """
import os, sys, threading, time, warnings
import jax, numpy as np
from data_cases import Numbered, TOTAL, make_store, numbers_of
from iltools_datasets.data import JaxDataLoader
from iltools_datasets.errors import StreamError
jax.block_until_ready(jax.jit(lambda x: x @ x)(jax.numpy.ones((256, 256))))
"""


def run(script: str, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)


def test_a_thousand_epochs_after_jax_has_computed(tmp_path: Path) -> None:
    """A loop that computes while two threads work: what hangs a loader that forks."""
    done = run(
        """
store = make_store(sys.argv[1])
step = jax.jit(lambda batch, x: x * 0.5 + batch.obs.sum())
loader = JaxDataLoader(store, 32, num_workers=2)
x = 0.0
for epoch in range(1000):
    for batch in loader:
        x = step(batch, x)
loader.close()
print(loader.epoch)
""",
        tmp_path / "store",
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["1000"], "")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see what a process holds")
@pytest.mark.parametrize(
    "num_batches", [5_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_nothing_is_left_of_batches(tmp_path: Path, num_batches: int) -> None:
    """Memory, descriptors and threads stay where they are, also where epochs are left in the middle."""
    done = run(
        """
import gc
from iltools_datasets import _core

def held():
    gc.collect()
    _core.release_memory()
    with open('/proc/self/status') as file:
        anonymous = int(file.read().partition('RssAnon:')[2].split()[0])
    return np.array([anonymous, len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))])

store = make_store(sys.argv[1])
loaders = [JaxDataLoader(store, 8, num_workers=n, extra=["index"]) for n in (0, 2)]
loaders.append(JaxDataLoader(Numbered(TOTAL), 8))
taken, wanted, before = 0, int(sys.argv[2]), None
while taken < wanted:
    for loader in loaders:
        for number, batch in enumerate(loader):
            taken += 1
            if number == 17:
                break
    if before is None and taken > wanted // 5:
        before = held()
print(*(held() - before < [8 << 10, 1, 1]))
""",
        tmp_path / "store",
        num_batches,
        timeout=580,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["True"] * 3, "")


@pytest.mark.parametrize(
    "script",
    [
        "next(iter(JaxDataLoader(store, 4, num_workers=2)))",
        "loader = JaxDataLoader(store, 4, num_workers=3, prefetch_factor=8); it = iter(loader); next(it)",
        "loader = JaxDataLoader(store, 4, num_workers=2); list(loader)",
        "loader = JaxDataLoader(store, 4, num_workers=2); it = iter(loader); next(it); sys.exit(0)",
        "JaxDataLoader(store, 4, num_workers=2, transform=lambda batch: threading.Event().wait()).__iter__()",
    ],
    ids=["forgotten", "full of batches", "between epochs", "sys.exit", "blocked"],
)
def test_the_interpreter_ends(tmp_path: Path, script: str) -> None:
    done = run(f"store = make_store(sys.argv[1])\n{script}", tmp_path / "store")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_interpreter_ends_with_worker_processes(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    script = tmp_path / "script.py"
    script.write_text(
        PREAMBLE
        + """
if __name__ == "__main__":
    loader = JaxDataLoader(Numbered(100), 4, num_workers=2)
    iterator = iter(loader)
    print(len(numbers_of(next(iterator))))
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["4"], "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_begins_its_own_threads(tmp_path: Path) -> None:
    """It may not compute with JAX, so it looks at the rows alone."""
    done = run(
        """
warnings.simplefilter('ignore')
loader = JaxDataLoader(make_store(sys.argv[1]), 4, num_workers=2, shuffle=False)
iterator = iter(loader)
next(iterator)
child = os.fork()
if child == 0:
    try:
        next(iterator)
    except StreamError as error:
        print(error, flush=True)
    rows = loader.dataset.gather([0, 1, 2, 3])
    print(len(rows['action']), flush=True)
    loader.close()
    os._exit(0)
os.waitpid(child, 0)
print(len(list(iterator)), flush=True)
""",
        tmp_path / "store",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "this epoch was begun in another process, before a fork; iterate over the loader here",
        "4",
        "47",
    ]


def test_ctrl_c_while_waiting(tmp_path: Path) -> None:
    done = run(
        """
import signal
blocks, goes_on = threading.Event(), threading.Event()
def wait(batch):
    blocks.set()
    goes_on.wait()
    return batch
loader = JaxDataLoader(make_store(sys.argv[1]), 4, num_workers=1, transform=wait, shuffle=False)
def interrupt():
    blocks.wait()
    os.kill(os.getpid(), signal.SIGINT)
iterator = iter(loader)
try:
    threading.Thread(target=interrupt).start()
    next(iterator)
except KeyboardInterrupt:
    print('interrupted', loader.state_dict()['position'])
goes_on.set()
print(int(next(iterator).obs[0, 0]), loader.state_dict()['position'])
loader.close()
print(len(list(loader)))
""",
        tmp_path / "store",
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["interrupted", "0", "0", "4", "48"], "")
