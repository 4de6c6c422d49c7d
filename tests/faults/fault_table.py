"""The fault table: which tests stand for which row, and how they ended. A pytest plugin, used by `make test-faults`.

A test, wherever it lies, belongs to a row by `@pytest.mark.faults("<row>")`. A row without a test is an error. The
first section is what breaks comparable packages; each further one is a kind of fault that was found in this one.
"""

from __future__ import annotations

from collections import Counter

import pytest

SECTIONS: dict[str, dict[str, str]] = {
    "what breaks comparable packages": {
        "column truncated": "open names column, expected and found bytes; nothing is written",
        "column too long": "refused when opened",
        "column missing": "named when opened",
        "metadata cut": "a typed error with the path, wherever it is cut",
        "metadata lies": "checked arithmetic: an error, no allocation, no file grows",
        "bit flip": "verify exits with 1 and names column and block",
        "truncated while mapped": "pread raises, ram does not notice; mmap: SIGBUS, documented",
        "disk full": "OSError ENOSPC, the old store intact, nothing left behind",
        "killed build": "the old store, the new one or none; the next build cleans up",
        "reader during builds": "always a complete old or a complete new store",
        "two builders": "the second is told the pid of the first; a kill frees the place",
        "smaller store over a larger": "a fresh data directory; overwrite= is explicit",
        "rebuild under a reader": "the reader keeps its snapshot",
        "reopened elsewhere": "another process finds data, segments and names",
        "key missing later": "an error naming trajectory and key",
        "other width": "an error, no broadcast",
        "duplicate ids": "an error",
        "batch written into": "batches are copies, maps and files are read-only",
        "hostile keys": "refused when built; links are not followed",
        "stale handle": "an error with path and uuid",
        "killed checkpoint": "the old checkpoint or the new one",
        "mutated sampler state": "refused, the sampler is as it was",
        "unknown task in an update": "no cursor moves",
        "batch larger than the data": "as many rows as asked for",
        "zarr chunk missing": "an error in archives of ours, counted in others'",
        "zarr values that do not fit": "an error; integers and images stay what they are",
        "killed worker": "the others go on, no lock stays taken",
        "fork after a gather": "no deadlock, by fork, spawn and forkserver; one thread in workers",
        "Ctrl-C": "stops long calls in time, leaves nothing half-built",
    },
    "the whole is checked, not its parts; state changes before a call that may fail": {
        "parts cut otherwise": "each part of a concatenation is compared; the error names trajectory and part",
        "first trajectory refused": "nothing of it stays, on disk or in the builder",
        "keys that cannot nest": "refused when added, over states, transitions, nexts and views",
        "attributes": "come back to the bit; a NaN is refused by name before anything begins",
    },
    "a copy of a process clears away what is the other's": {
        "forked child ends": "builder, spool, archive, bucket and checkpoint of the parent stay as they are",
        "forked child lives on": "holds no lock once the parent's build is over",
    },
    "Python is called while a lock is held": {
        "signal handler in a call": "abort() works at once; other methods are refused or wait, none hangs",
        "a signal handler that records": "asks and flushes while a store is written, as other threads do",
    },
    "files are opened in more than one way": {
        "pipe, link or device": "no file of a store is waited for or followed, when read, verified, built or locked",
        "file that is a hole": "no memory is taken by its length, or by the manifest's word",
        "foreign metadata": "leads nowhere out of its directory; odd types are typed errors",
        "a history that lies": "refused by name when the store is opened; no memory is taken by its length",
    },
    "something else is taken for one's own": {
        "somebody else's directory": "a Zarr archive, or another manifest.json, is never built over or cleaned",
    },
    "what is cheap for ten is dear for a thousand": {
        "many columns": "a build within 150 MB and 1,024 descriptors, and reading with pread, too",
        "many clips": "names and segments cost the same however many there are",
    },
    "what a file says is believed before it is compared": {
        "archive that runs code": "codecs of Python objects are never asked; nothing is unpickled",
        "archive that grows": "each stage of a chain is bounded before it decodes, here and in zarr-python",
        "claims that nobody wrote": "refused before memory is asked for, where zarr-python reads, too",
        "archive with links or pipes": "a chunk is a plain file of a possible size: an error, no wait, no memory",
        "clip that is not what it claims": "told by its first bytes, with what to do; nothing is written",
        "quaternions in another order": "refused until somebody says which, or stored right",
    },
    "a stale handle, and all checked before anything is asked": {
        "archive replaced while open": "an error that says so; no zeros, no mixture, not called damage",
        "clip that does not fit together": "an error when built, skipped when not strict; the archive opens",
        "child forked while others read": "goes on with locks and threads of its own",
    },
    "checked part by part, changed part by part": {
        "load that fails": "every part of the buffer, or the manager, is as it was",
        "state that contradicts itself": "refused: the same fact is kept twice, and compared",
        "saved while it is read": "the save that is being read stays until it has been",
        "checkpoint of TorchRL's": "data, settings and what has the same meaning are read; its pickle never",
    },
    "taken for something else": {
        "workers that draw the same": "no two workers of a DataLoader, however they were started, draw the same rows",
        "what is no env": "bools, floats and odd shapes are refused before anything moves",
        "column called index": "stays; what stands beside a batch has its shape and its device",
    },
    "memory that is another's": {
        "column without memory": "gives its address to nobody: read right, or an error that says what to do",
        "array written to meanwhile": "is copied from, as it was or as it becomes, and what is stored has its checksum",
        "output over the input": "refused, and nothing is written",
    },
    "what comes over a network comes in part, changed or not at all": {
        "store there is damaged": "named with its URL, file, expected and found; nothing is left to be opened",
        "object storage fails": "403, 500, 503, half an answer, nobody: an error with the URL; the next try goes on",
        "killed while fetching": "no store, or the one before; one process fetches and others wait",
        "disk full while fetching": "OSError ENOSPC, and what was fetched is removed",
        "store there is replaced": "the old copy or the new one, in one step; who has the old one open keeps it",
    },
    "visible before it is durable": {
        "order of syncs": "data, then names, then the rename, then its directory; for everything that is published",
    },
}
ROWS = {row: promise for rows in SECTIONS.values() for row, promise in rows.items()}

_rows_of_test: dict[str, list[str]] = {}
_outcomes: dict[str, Counter[str]] = {row: Counter() for row in ROWS}
_reasons: dict[str, set[str]] = {row: set() for row in ROWS}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        rows = [row for mark in item.iter_markers("faults") for row in mark.args]
        unknown = set(rows) - ROWS.keys()
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: no such row of the fault table: {sorted(unknown)}")
        _rows_of_test[item.nodeid] = rows


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    is_result = report.when == "call" or report.outcome != "passed"
    for row in _rows_of_test.get(report.nodeid, []) if is_result else []:
        _outcomes[row][report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            _reasons[row].add(report.longrepr[2].removeprefix("Skipped: "))


def _verdict(row: str) -> str:
    outcomes = _outcomes[row]
    if outcomes["failed"]:
        return "FAILED"
    return "ok" if outcomes["passed"] else "skipped" if outcomes["skipped"] else "NO TEST"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("fault table")
    for section, rows in SECTIONS.items():
        terminalreporter.write_line(f"\n{section}")
        for row, promise in rows.items():
            count = _outcomes[row].total()
            remark = f"  ({'; '.join(sorted(_reasons[row]))})" if _reasons[row] else ""
            terminalreporter.write_line(f"  {_verdict(row):8} {row:28} {promise} [{count}]{remark}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == 0 and any(_verdict(row) == "NO TEST" for row in ROWS):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
