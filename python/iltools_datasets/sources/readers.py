"""Files that several processes read, in the order of one."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.protocol import Recording, Source, SourceFile
from iltools_datasets.sources.resample import resample

Job = tuple[Source, SourceFile]


def read_file(source: Source, file: SourceFile, fps: float | None) -> Iterator[Recording]:
    """Yield the recordings of a file, resampled to a rate unless that is None."""
    for recording in source.read(file):
        yield recording if fps is None else resample(recording, fps, str(file.path))


class Readers:
    """Processes that read files, the n-th one every so many; `read` gives what they read, file by file.

    A process reads ahead of its turn until it has a recording that nobody takes. It ends with this one, however that
    ends. Interrupts are this process's alone.

    Args:
        jobs: what is to be read, in this order.
        count: of processes.
        fps: as in `read_file`.

    Raises:
        SourceError: a source cannot be sent to another process.
    """

    def __init__(self, jobs: Sequence[Job], count: int, fps: float | None) -> None:
        self._jobs, self._fps = jobs, fps
        self._count = max(1, min(count, len(jobs)))
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[int, tuple[SpawnProcess, Connection]] = {}

    def __enter__(self) -> Self:
        try:
            for slot in range(self._count):
                self._start(slot, slot)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def read(self, number: int) -> Iterator[Recording]:
        """Yield the recordings of the `number`-th file; each file once, in order.

        Raises what reading it raised, or SourceError where the process that read it is gone.
        """
        source, file = self._jobs[number]
        slot = number % self._count
        if slot not in self._running:
            self._start(slot, number)
        process, connection = self._running[slot]
        try:
            while True:
                try:
                    what, content = connection.recv()
                except (EOFError, OSError) as error:
                    del self._running[slot]
                    process.join()
                    connection.close()
                    code = process.exitcode or 0
                    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                    raise SourceError(f"{file.path}: the process that read it {how}") from error
                for name, arguments in content[1]:
                    getattr(source, name)(*arguments)
                if what == "recording":
                    yield content[0]
                elif content[0] is not None:
                    raise content[0]
                else:
                    return
        except GeneratorExit:
            # Whoever wants no more of this file wants the next one of the process.
            with suppress(EOFError, OSError):
                while connection.recv()[0] == "recording":
                    pass
            raise

    def _start(self, slot: int, first: int) -> None:
        own = self._jobs[first :: self._count]
        try:
            content = pickle.dumps((own, self._fps))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise SourceError(f"{own[0][1].path}: its source cannot be sent to another process: {error}") from error
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        # It begins with interrupts held back, and then ignores them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self._running[slot] = process, ours
        with suppress(OSError):  # it is gone, which reading finds
            ours.send_bytes(content)

    def _end(self) -> None:
        for process, connection in self._running.values():
            process.kill()
            connection.close()
        for process, _ in self._running.values():
            process.join()
        self._running.clear()


def _work(connection: Connection) -> None:
    """Read files one after another, and send what is in them, what is to be told of them, and how each ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs, fps = pickle.loads(connection.recv_bytes())
    told: list[tuple[str, tuple[Any, ...]]] = []
    for source in {id(source): source for source, _ in jobs}.values():
        for name in ("note", "about"):
            setattr(source, name, _noted(name, getattr(source, name), told))
    for source, file in jobs:
        told.clear()
        failure: Exception | None = None
        try:
            for recording in read_file(source, file, fps):
                connection.send(("recording", (recording, told)))
                told.clear()
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:
            failure = _sendable(error)
        try:
            connection.send(("end", (failure, told)))
        except (BrokenPipeError, ConnectionResetError):
            return


def _noted(name: str, say: Callable[..., None], told: list[tuple[str, tuple[Any, ...]]]) -> Callable[..., None]:
    """Have what a source says of its files noted down, too: it is said again where the files are counted."""

    def noted(*arguments: Any) -> None:
        told.append((name, arguments))
        say(*arguments)

    return noted


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SourceError(f"{type(error).__name__}: {error}")
    return error
