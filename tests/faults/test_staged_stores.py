"""A store on object storage: copied once to this machine, whole, compared, and nothing is taken for it before."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_tools import WATCHDOG_SECONDS, compile_failing_calls, last_line, run_python
from iltools_datasets import StoreBuilder, TrajectoryStore, verify_store
from iltools_datasets.errors import (
    ArgumentError,
    StorageError,
    StoreCorruptError,
    StoreError,
    StoreNotFoundError,
    StoreVersionError,
)
from object_server import ObjectServer, serving
from stores import build_store, expected_columns, make_clips

CLIPS = make_clips([40, 7, 90, 25])
CONCAT, ALIAS = {"observation": ["qpos", "qvel"]}, {"terminated": ("next", "done")}

OPEN = """
import json, sys
import numpy as np
from iltools_datasets import TrajectoryStore
url, cache, options = sys.argv[1:4]
store = TrajectoryStore.open(url, cache=cache, storage_options=json.loads(options))
print(len(store), store.path)
"""


@pytest.fixture(scope="module")
def running() -> Iterator[ObjectServer]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: ObjectServer) -> ObjectServer:
    running.reset()
    return running


@pytest.fixture
def url(server: ObjectServer, tmp_path: Path) -> str:
    url = server.upload(build_store(tmp_path / "origin", CLIPS), "deep/walk")
    server.requests.clear()
    return url


def opened(url: str, server: ObjectServer, tmp_path: Path) -> TrajectoryStore:
    return TrajectoryStore.open(url, cache=tmp_path / "cache", storage_options=server.options)


def assert_holds(store: TrajectoryStore, clips: Any) -> None:
    rows = store.gather(np.arange(len(store)))
    for key, expected in expected_columns(clips).items():
        np.testing.assert_array_equal(rows[key], expected)
    assert verify_store(store.path) == []


def left_of(tmp_path: Path) -> list[str]:
    """What is in the cache, but for locks."""
    return sorted(path.name for path in (tmp_path / "cache" / "stores").glob("*") if path.suffix != ".lock")


def test_what_a_plain_upload_put_there_comes_back_and_is_read_once(
    url: str, server: ObjectServer, tmp_path: Path
) -> None:
    store = opened(url, server, tmp_path)
    assert_holds(store, CLIPS)
    assert store.path.parent == tmp_path / "cache" / "stores"
    assert store.uuid == TrajectoryStore.open(tmp_path / "origin").uuid
    files = [file for file in (tmp_path / "origin").rglob("data-*/**/*") if file.is_file()]
    assert sorted(set(server.gets())) == sorted(
        f"deep/walk/{file.relative_to(tmp_path / 'origin')}" for file in [*files, tmp_path / "origin/manifest.json"]
    )
    server.requests.clear()
    assert opened(url, server, tmp_path).path == store.path
    assert set(server.gets()) == {"deep/walk/manifest.json"}
    assert left_of(tmp_path) == [store.path.name]


def test_other_protocols_are_fsspecs(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec")
    bucket = fsspec.filesystem("memory")
    bucket.put(str(build_store(tmp_path / "origin", CLIPS)), "/staged-as-it-is", recursive=True)
    assert_holds(TrajectoryStore.open("memory://staged-as-it-is", cache=tmp_path / "cache"), CLIPS)


def test_what_cannot_be_opened_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"s3://bucket/walk: expected .* cache=DIRECTORY"):
        TrajectoryStore.open("s3://bucket/walk")
    with pytest.raises(ArgumentError, match="ftpx://bucket/walk: expected the URL of an object store"):
        TrajectoryStore.open("ftpx://bucket/walk", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hidden", ["fsspec", "s3fs"])
def test_without_the_client_the_extra_is_named(hidden: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{hidden!r}] = None\n" + OPEN
    done = run_python(code, "s3://bucket/walk", tmp_path, "{}")
    assert last_line(done).startswith("iltools_datasets.errors.MissingExtraError: s3://bucket/walk")
    assert "iltools-datasets[s3]" in last_line(done)


def test_of_an_addition_only_what_is_new_is_fetched(url: str, server: ObjectServer, tmp_path: Path) -> None:
    before = opened(url, server, tmp_path)
    more = make_clips([12, 30], seed=1)
    with StoreBuilder(tmp_path / "origin", append=True, concat=CONCAT, alias=ALIAS) as builder:
        for k, clip in enumerate(more):
            builder.add(
                9,
                k,
                states={"qpos": clip["qpos"], "qvel": clip["qvel"]},
                transitions={"action": clip["action"], ("next", "done"): clip["done"]},
            )
    server.upload(tmp_path / "origin", "deep/walk")
    server.requests.clear()
    after = opened(url, server, tmp_path)
    assert_holds(after, [*CLIPS, *more])
    assert not [key for key in server.gets() if f"data-{before.uuid}/" in key]
    assert before.refresh().num_trajectories == after.num_trajectories == 6
    rows = before.gather(np.arange(len(before)), ["qpos"])["qpos"]
    np.testing.assert_array_equal(rows, expected_columns(CLIPS)["qpos"])
    assert left_of(tmp_path) == [after.path.name]


@pytest.mark.faults("store there is replaced")
def test_a_rebuild_takes_the_place_and_who_has_the_old_one_open_keeps_it(
    url: str, server: ObjectServer, tmp_path: Path
) -> None:
    before = opened(url, server, tmp_path)
    other = make_clips([8, 16], seed=2)
    build_store(tmp_path / "origin", other, overwrite=True)
    server.files().rm(f"{server.bucket}/deep/walk", recursive=True)
    server.upload(tmp_path / "origin", "deep/walk")
    after = opened(url, server, tmp_path)
    assert_holds(after, other)
    rows = before.gather(np.arange(len(before)), ["qpos"])["qpos"]
    np.testing.assert_array_equal(rows, expected_columns(CLIPS)["qpos"])
    assert [path.name for path in after.path.glob("data-*")] == [f"data-{after.uuid}"]


@pytest.mark.faults("store there is replaced")
def test_a_build_that_takes_the_place_meanwhile_is_what_is_opened(
    url: str, server: ObjectServer, tmp_path: Path
) -> None:
    other = make_clips([8, 16], seed=2)
    origin = build_store(tmp_path / "other", other)
    old = next((tmp_path / "origin").glob("data-*")).name
    replaced = []

    def fault(method: str, key: str) -> None:
        if key.endswith("segments.i64") and not replaced:
            replaced.append(key)
            server.fault = lambda method, key: None
            files = server.files()
            files.rm(f"{server.bucket}/deep/walk/{old}", recursive=True)
            server.upload(origin, "deep/walk")

    server.fault = fault
    assert_holds(opened(url, server, tmp_path), other)
    assert replaced


@pytest.mark.faults("killed while fetching")
def test_one_process_fetches_and_others_wait_for_it(url: str, server: ObjectServer, tmp_path: Path) -> None:
    together = threading.Barrier(3)

    def fault(method: str, key: str) -> None:
        if method == "GET" and key.endswith("manifest.json") and len(server.gets("manifest.json")) <= 3:
            together.wait(WATCHDOG_SECONDS)  # all have found that there is no copy

    server.fault = fault
    command = [sys.executable, "-c", OPEN, url, tmp_path / "cache", json.dumps(server.options)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=WATCHDOG_SECONDS)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(said) == 1
    read = [key for key in server.gets() if not key.endswith("manifest.json")]
    assert len(read) == len(set(read)) == 9


@pytest.mark.faults("killed while fetching")
def test_a_killed_one_leaves_no_store_and_the_next_goes_on(url: str, server: ObjectServer, tmp_path: Path) -> None:
    come, killed = threading.Event(), threading.Event()

    def fault(method: str, key: str) -> None:
        if method == "GET" and key.endswith("action.memmap"):
            come.set()
            killed.wait(WATCHDOG_SECONDS)

    server.fault = fault
    command = [sys.executable, "-c", OPEN, url, tmp_path / "cache", json.dumps(server.options)]
    child = subprocess.Popen(command)
    assert come.wait(WATCHDOG_SECONDS)
    child.send_signal(signal.SIGKILL)
    assert child.wait(WATCHDOG_SECONDS) == -signal.SIGKILL
    server.fault = lambda method, key: None
    killed.set()
    [left] = left_of(tmp_path)
    assert left.startswith(".walk-")
    assert left.endswith(".partial")
    with pytest.raises(StoreNotFoundError):
        TrajectoryStore.open(tmp_path / "cache" / "stores" / left)
    kept = {
        f"deep/walk/{file.relative_to(tmp_path / 'cache/stores' / left)}"
        for file in (tmp_path / "cache" / "stores" / left).rglob("*")
        if file.is_file() and file.suffix != ".part"
    }
    server.requests.clear()
    store = opened(url, server, tmp_path)
    assert_holds(store, CLIPS)
    assert "deep/walk/" + str(Path(f"data-{store.uuid}/transitions/action.memmap")) in server.gets()
    assert not kept & set(server.gets())
    assert left_of(tmp_path) == [store.path.name]


def change(server: ObjectServer, name: str, how: Any) -> None:
    """Put another content in the place of an object's, or none."""
    files = server.files()
    [place] = [place for place in files.find(f"{server.bucket}/deep/walk") if place.endswith(name)]
    content = how(files.cat_file(place))
    if content is None:
        files.rm(place)
    else:
        files.pipe_file(place, content)


def flipped(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


DAMAGES = {
    "a bit": ("observation.memmap", flipped, StoreCorruptError, r"observation\.memmap: .*checksum"),
    "half a file": ("action.memmap", lambda content: content[:100], StoreCorruptError, r"memmap: .*expected \d+ bytes"),
    "a longer file": (
        "action.memmap",
        lambda content: content + b"x",
        StoreCorruptError,
        r"memmap: .*expected \d+ bytes",
    ),
    "no file": ("action.memmap", lambda content: None, StoreCorruptError, r"action\.memmap: .*is missing"),
    "no segments": ("segments.i64", lambda content: None, StoreCorruptError, r"segments\.i64: is missing"),
    "half a manifest": ("manifest.json", lambda content: content[:200], StoreCorruptError, r"walk/manifest\.json"),
    "a manifest that lies": ("manifest.json", flipped, StoreCorruptError, r"walk/manifest\.json: .*checksum"),
    "another manifest": ("manifest.json", lambda content: b"{}", StoreCorruptError, r"walk/manifest\.json"),
    "no manifest": ("manifest.json", lambda content: None, StoreNotFoundError, "there is no store"),
}


@pytest.mark.faults("store there is damaged")
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_there_is_named_and_never_opened(
    url: str, server: ObjectServer, tmp_path: Path, damage: str
) -> None:
    name, how, kind, message = DAMAGES[damage]
    change(server, name, how)
    with pytest.raises(kind, match=message) as raised:
        opened(url, server, tmp_path)
    assert str(raised.value).startswith(url)
    assert str(tmp_path) not in str(raised.value)
    assert left_of(tmp_path) == []


def test_a_store_of_a_later_format_is_refused_before_it_is_fetched(
    url: str, server: ObjectServer, tmp_path: Path
) -> None:
    from manifests import rewrite

    rewrite(tmp_path / "origin", lambda manifest: manifest.update(version=99))
    server.upload(tmp_path / "origin", "deep/walk")
    server.requests.clear()
    with pytest.raises(StoreVersionError, match=r"walk/manifest\.json"):
        opened(url, server, tmp_path)
    assert set(server.gets()) == {"deep/walk/manifest.json"}


@pytest.mark.faults("store there is damaged")
def test_a_name_that_leads_out_of_the_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec")
    bucket = fsspec.filesystem("memory")
    origin = build_store(tmp_path / "origin", CLIPS)
    bucket.put(str(origin), "/hostile", recursive=True)
    data = next(origin.glob("data-*")).name
    for name in ("../../../../out", "states/../../../out", "./x"):
        bucket.store[f"/hostile/{data}/{name}"] = bucket.store["/hostile/manifest.json"]
        with pytest.raises(StorageError, match=r"memory://hostile: the name .* leads out of it"):
            TrajectoryStore.open("memory://hostile", cache=tmp_path / "cache")
        del bucket.store[f"/hostile/{data}/{name}"]
    assert left_of(tmp_path) == []


@pytest.mark.faults("object storage fails")
@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        ("403 Forbidden", "AccessDenied", "access is refused"),
        ("503 Service Unavailable", "ServiceUnavailable", "cannot be read"),
        ("500 Internal Server Error", "InternalError", "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["manifest.json", "action.memmap"])
def test_an_answer_that_is_none_is_an_error_with_its_url(
    url: str, server: ObjectServer, tmp_path: Path, status: str, code: str, message: str, name: str
) -> None:
    server.fault = lambda method, key: (status, code) if key.endswith(name) else None
    with pytest.raises(StorageError, match=f"{url}/.*{name}: {message}") as raised:
        opened(url, server, tmp_path)
    assert not isinstance(raised.value, StoreError)
    server.fault = lambda method, key: None
    assert_holds(opened(url, server, tmp_path), CLIPS)
    assert len(left_of(tmp_path)) == 1


@pytest.mark.faults("object storage fails")
def test_a_server_that_recovers_is_asked_again_by_its_client(url: str, server: ObjectServer, tmp_path: Path) -> None:
    refused: list[str] = []

    def fault(method: str, key: str) -> tuple[str, str] | None:
        if method == "GET" and refused.count(key) < 2 and key.endswith(("manifest.json", "action.memmap")):
            refused.append(key)
            return "503 Service Unavailable", "SlowDown"
        return None

    server.fault = fault
    server.options["config_kwargs"] = {"retries": {"max_attempts": 5}}
    assert_holds(opened(url, server, tmp_path), CLIPS)
    assert len(refused) == 4


@pytest.mark.faults("object storage fails")
def test_half_an_answer_is_no_file(url: str, server: ObjectServer, tmp_path: Path) -> None:
    server.cut = lambda method, key: method == "GET" and key.endswith("action.memmap")
    with pytest.raises(StorageError, match=f"{url}/.*action.memmap: "):
        opened(url, server, tmp_path)
    server.cut = lambda method, key: False
    assert_holds(opened(url, server, tmp_path), CLIPS)


@pytest.mark.faults("object storage fails")
def test_nobody_answers(tmp_path: Path) -> None:
    with serving() as server:
        options = server.options
    with pytest.raises(StorageError, match=r"s3://bucket/walk/manifest.json: cannot be read"):
        TrajectoryStore.open("s3://bucket/walk", cache=tmp_path / "cache", storage_options=options)


def test_what_was_damaged_on_this_machine_is_fetched_again(url: str, server: ObjectServer, tmp_path: Path) -> None:
    store = opened(url, server, tmp_path)
    (store.path / "manifest.json").unlink()
    column = next(store.path.rglob("action.memmap"))
    column.chmod(0o644)
    column.write_bytes(flipped(column.read_bytes()))
    again = opened(url, server, tmp_path)
    assert_holds(again, CLIPS)


FILL = """
import errno, shutil, sys
from pathlib import Path
import fsspec
from fault_tools import Mode, arm
from iltools_datasets import TrajectoryStore
origin, cache = Path(sys.argv[1]), Path(sys.argv[2])
fsspec.filesystem("memory").put(str(origin), "/full", recursive=True)

def left():
    return sorted(path.name for path in (cache / "stores").glob("*") if path.suffix != ".lock")

def attempt(at, mode, **more):
    arm(cache, at, mode, **more)
    try:
        return TrajectoryStore.open("memory://full", cache=cache)
    finally:
        arm(Path("/nowhere"), 0, Mode.COUNT)

failed = 0
for at in range(1, 1000):
    try:
        store = attempt(at, Mode.FAIL, error=errno.ENOSPC)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        if left():  # the last sync of all, of the name that is there
            assert not TrajectoryStore.open(cache / "stores" / left()[0]).verify()
            shutil.rmtree(cache)
            cache.mkdir()
        failed += 1
        continue
    assert store.verify() == []
    if at > failed + 20:
        break
    shutil.rmtree(cache)
    cache.mkdir()
print(failed)
"""


@pytest.mark.faults("disk full while fetching")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="needs fsspec")
    origin = build_store(tmp_path / "origin", CLIPS)
    (tmp_path / "cache").mkdir()
    library = compile_failing_calls(tmp_path)
    done = run_python(FILL, origin, tmp_path / "cache", LD_PRELOAD=str(library))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
