"""One store in many processes and threads. Run by test_sharing.py in a process of its own, under a watchdog.

Batches are far above the size from which a gather uses several threads: below it nothing could go wrong.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from iltools_datasets import TrajectoryStore, num_threads, set_num_threads

ROWS = 40_000
"""Rows of a batch; with the 60 bytes of a row of `stores.build_store` three times the parallel threshold."""


def batch_index(store: TrajectoryStore) -> np.ndarray:
    """Return the same rows in every process."""
    return np.random.default_rng(0).integers(0, len(store), ROWS)


def checksum(batch: dict[Any, np.ndarray]) -> float:
    """Return a number that differs for nearly every other batch."""
    return float(sum(np.abs(array.astype(np.float64)).sum() for array in batch.values()))


def native_threads() -> int:
    """Return the number of threads of this process."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def work(store: TrajectoryStore) -> tuple[float, float, int, int]:
    """Gather with two threads and with the default; return the checksums, the default, and the threads it started."""
    index = batch_index(store)
    with_two = checksum(store.gather(index))
    store.num_threads = None
    before = native_threads()
    with_default = checksum(store.gather(index))
    default, started = num_threads(), native_threads() - before
    set_num_threads(2)
    assert checksum(store.gather(index)) == with_default
    assert num_threads() == 2
    set_num_threads(default)
    return with_two, with_default, default, started


@contextmanager
def gathering_thread(store: TrajectoryStore) -> Iterator[None]:
    """Keep a thread of this process inside gathers."""
    index, stop = batch_index(store), threading.Event()

    def gather() -> None:
        while not stop.is_set():
            store.gather(index)

    thread = threading.Thread(target=gather)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def pool(method: str, when: str, path: str) -> None:
    """Pass a handle to worker processes that are made before, after or while this process gathers."""
    store = TrajectoryStore.open(path, num_threads=2)
    if when == "after":
        store.gather(batch_index(store))
    context = multiprocessing.get_context(method)
    if when == "during":
        with gathering_thread(store), context.Pool(2) as workers:
            found = workers.map(work, [store] * 6, chunksize=1)
    else:
        with context.Pool(2) as workers:
            found = workers.map(work, [store] * 6, chunksize=1)
    expected = checksum(store.gather(batch_index(store)))
    assert found == [(expected, expected, 1, 0)] * 6, (expected, found)


def inherited(when: str, path: str) -> None:
    """Use a handle in a plain fork, unpickled; a thread of the parent may be inside a gather at that moment."""
    store = TrajectoryStore.open(path, num_threads=2)
    expected = checksum(TrajectoryStore.open(path, num_threads=1).gather(batch_index(store)))
    if when == "after":
        store.gather(batch_index(store))

    def fork_some() -> None:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(int(checksum(store.gather(batch_index(store))) != expected))
            assert os.waitpid(child, 0)[1] == 0

    if when == "during":
        with gathering_thread(store):
            fork_some()
    else:
        fork_some()


def loader(method: str, path: str) -> None:
    """Read through a DataLoader whose workers get a TorchRL storage over the store, before and after a gather here."""
    import torch
    from iltools_datasets.torchrl import TrajectoryStorage
    from torch.utils.data import DataLoader

    index = batch_index(TrajectoryStore.open(path))

    def read_through_workers() -> np.ndarray:
        batches = DataLoader(
            TrajectoryStorage(TrajectoryStore.open(path)),
            sampler=index.tolist(),
            batch_size=ROWS // 2,
            num_workers=2,
            collate_fn=_as_it_is,
            multiprocessing_context=method,
        )
        return torch.cat([batch["observation"] for batch in batches]).numpy()

    before = read_through_workers()
    expected = TrajectoryStore.open(path, num_threads=2).gather(index, ["observation"])["observation"]
    torch.ones(1000, 1000).matmul(torch.ones(1000, 1000))
    np.testing.assert_array_equal(before, expected)
    np.testing.assert_array_equal(read_through_workers(), expected)


def _as_it_is(batch: Any) -> Any:
    return batch


def look_ahead(method: str, path: str) -> None:
    """Go on with a prefetching buffer in a child process: the stream is the one the parent goes on with."""
    import torch
    from iltools_datasets.torchrl import SamplerWithoutReplacement, TensorDictReplayBuffer, TrajectoryStorage

    buffer = TensorDictReplayBuffer(
        storage=TrajectoryStorage(TrajectoryStore.open(path)),
        sampler=SamplerWithoutReplacement(seed=3),
        batch_size=ROWS // 2,
        prefetch=2,
    )
    for _ in range(3):
        buffer.sample()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context(method).Process(target=_send_samples, args=(buffer, sender))
    child.start()
    sender.close()
    theirs = [receiver.recv() for _ in range(4)]
    child.join()
    assert child.exitcode == 0
    ours = _samples(buffer)
    assert theirs == ours, (theirs, ours)
    assert torch.is_tensor(buffer.sample()["observation"])


def _samples(buffer: Any) -> list[tuple[float, int]]:
    batches = [buffer.sample() for _ in range(4)]
    return [(float(batch["observation"].double().sum()), int(batch["index"].sum())) for batch in batches]


def _send_samples(buffer: Any, sender: Connection) -> None:
    for sample in _samples(buffer):
        sender.send(sample)


def torch_processes(method: str, path: str) -> None:
    """What TorchRL does with processes, in one that has imported it: each worker imports it again anyway."""
    # A server of forks imports once what all its children need.
    multiprocessing.set_forkserver_preload(["iltools_datasets.torchrl"])
    spec_example(method)
    look_ahead(method, path)
    loader(method, path)


def spec_example(method: str) -> None:
    """Extend a shared buffer from another process, as TorchRL's pages do, with the storages of this package."""
    import torch
    from iltools_datasets.torchrl import LazyMemmapStorage, TensorDictReplayBuffer
    from tensordict import TensorDict
    from torch import multiprocessing as torch_multiprocessing

    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(21))
    buffer.extend(TensorDict({"a": torch.zeros(10)}, [10]))
    child = torch_multiprocessing.get_context(method).Process(target=_extend, args=(buffer,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert len(buffer) == 20
    assert (buffer["_data", "a"][:10] == 0).all()
    assert (buffer["_data", "a"][10:20] == 1).all()


def _extend(buffer: Any) -> None:
    import torch
    from tensordict import TensorDict

    buffer.extend(TensorDict({"a": torch.ones(10)}, [10]))


def killed_worker(path: str) -> None:
    """Kill one of three workers inside a gather: the others go on, and so does everything else with the store."""
    context = multiprocessing.get_context("fork")
    store = TrajectoryStore.open(path, num_threads=2)
    store.gather(batch_index(store))
    pipes = [context.Pipe(duplex=False) for _ in range(3)]
    workers = [context.Process(target=_gather_on, args=(store, sender)) for _, sender in pipes]
    for worker in workers:
        worker.start()
    expected = {checksum(store.gather(batch_index(store)))}
    for receiver, _ in pipes:
        assert receiver.recv() in expected
    assert workers[0].pid is not None
    os.kill(workers[0].pid, signal.SIGKILL)
    workers[0].join()
    for receiver, _ in pipes[1:]:
        for _ in range(20):
            assert receiver.recv() in expected
    for worker in workers[1:]:
        worker.terminate()
        worker.join()
    from iltools_datasets import verify_store
    from stores import build_store, make_clips

    build_store(store.path, make_clips([50]), overwrite=True)
    assert verify_store(store.path) == []


def _gather_on(store: TrajectoryStore, sender: Connection) -> None:
    index = batch_index(store)
    while True:
        sender.send(checksum(store.gather(index)))


def threads(path: str) -> None:
    """Draw one epoch by eight threads from one sampler, each gathering what it drew, with several threads at that."""
    from iltools_datasets import _core

    store = TrajectoryStore.open(path, num_threads=2)
    columns = store.gather(np.arange(len(store)))
    stream = _core.EpochShuffle(len(store), 7)
    drawn: list[np.ndarray] = []
    wrong: list[object] = []
    batch = len(store) // 16

    def draw() -> None:
        for _ in range(2):
            index = stream.next(batch)
            for key, rows in store.gather(index).items():
                if not np.array_equal(rows, columns[key][index]):
                    wrong.append(key)
            drawn.append(index)

    workers = [threading.Thread(target=draw) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    seen = np.concatenate(drawn)
    assert len(seen) == 16 * batch == len(np.unique(seen))


def main() -> None:
    """Run the scenario that the command line names."""
    scenarios: dict[str, Callable[..., None]] = {
        scenario.__name__: scenario for scenario in (pool, inherited, torch_processes, killed_worker, threads)
    }
    scenarios[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
