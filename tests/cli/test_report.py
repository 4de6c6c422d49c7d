"""`iltools report`: the page says what the set holds, and a real browser shows it without asking for anything."""

from __future__ import annotations

import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import look_at
from iltools_datasets import StoreBuilder
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.tracking import MotionSampler
from tracking_cases import World, time_store

pytest.importorskip("typer", reason="the command line needs the extra cli")

LENGTHS = (30, 55, 80, 80, 41)
HOSTILE = (
    "<img src=http:&#x2f;&#x2f;evil.example&#x2f;x onerror=alert(1)>",
    '"><script>alert(2)<',
    "]]>&lt;b&gt;é",
)


class Page(HTMLParser):
    """Elements, texts and attributes of a page, as any reader of HTML finds them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.texts: list[str] = []
        self.values: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.values += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        self.values += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Clips of a robot that walks, the third with a NaN, named so that they would be markup."""
    with ArchiveWriter(tmp_path / "motion.zarr") as writer:
        for number, states in enumerate(LENGTHS):
            time = np.arange(states) / 50
            joints = np.sin(np.outer(time, [1.0, 2.0, 3.0]) + number)
            speeds = np.array([1.0, 2.0, 3.0]) * np.cos(np.outer(time, [1.0, 2.0, 3.0]) + number)
            bodies = np.stack([time, np.sin(time), np.ones_like(time)], axis=1)[:, None] + np.zeros((1, 2, 3))
            if number == 2:
                joints[7, 1] = np.nan
            arrays = {"joint_pos": joints, "joint_vel": speeds, "body_pos_w": bodies}
            named = {"joint_names": ["hip", "knee", "<b>ankle\x07"], "body_names": ["pelvis", "foot"], "fps": 50.0}
            writer.add("lab", "walk", HOSTILE[number] if number < len(HOSTILE) else f"c{number}", arrays, named)
    return tmp_path / "motion.zarr"


def test_a_page_of_an_archive_says_what_it_holds(iltools: Any, archive: Path, tmp_path: Path) -> None:
    outcome = iltools("report", archive, "--out", tmp_path / "report.html", "--json")
    assert outcome.code == 0, outcome.err
    page = Page(tmp_path / "report.html")
    assert outcome.json["findings"] == 1
    assert outcome.json["bytes"] == (tmp_path / "report.html").stat().st_size
    for said in (
        f"states {sum(LENGTHS):,}, so {sum(LENGTHS) - len(LENGTHS):,} transitions",
        "rates 50 Hz: 5 clips",
        "5 clips of 0.6 to 1.6 s, half of them up to 1.1 s",
        "body_pos_w 2 x 3 float64 5",
        "value: 1",
        "nan in column 1; 1 such values in 1 frames",
        f"{HOSTILE[2]} joint_pos 7 nan",
        "hip knee <b>ankle\ufffd",
    ):
        assert said in page.text, said
    bars = re.findall(r"([\d.e+-]+) to ([\d.e+-]+) s: (\d+)", page.text)
    seconds = np.array(LENGTHS) / 50
    for low, high, count in bars:
        inside = (seconds >= float(low) - 1e-3) & (seconds < float(high) - 1e-3 + 2e-3 * (float(high) > 1.59))
        assert int(count) == inside.sum(), (low, high, count)
    assert sum(int(count) for *_, count in bars) == len(LENGTHS)


def test_names_are_text_whatever_is_in_them(iltools: Any, archive: Path, tmp_path: Path) -> None:
    assert iltools("report", archive, "--out", tmp_path / "report.html").code == 0
    page = Page(tmp_path / "report.html")
    assert not {"img", "script", "b", "iframe", "link", "object"} & set(page.tags)
    assert page.values == []
    for name in HOSTILE:
        assert f"lab/walk/{name}" in page.text
    assert page.tags["figure"] == 1 + len(LENGTHS)


def test_a_gap_is_no_movement(iltools: Any, tmp_path: Path) -> None:
    """A column far from zero that stands still is not drawn before those that move, though a value is missing."""
    with ArchiveWriter(tmp_path / "a.zarr") as writer:
        rows = np.linspace(0, 1, 50)[:, None] * np.arange(1, 8)
        rows[:, 0] = 1000
        rows[20, 0] = np.nan
        names = ["still", *(f"moves{number}" for number in range(6))]
        writer.add("lab", "walk", "t", {"joint_pos": rows}, {"joint_names": names, "fps": 50.0})
    assert iltools("report", tmp_path / "a.zarr", "--out", tmp_path / "report.html").code == 0
    legend = Page(tmp_path / "report.html").text.partition("joint_pos:")[2]
    assert "moves0 moves1 moves2 moves3 moves4 moves5" in legend
    assert "still" not in legend


def test_a_browser_shows_it_and_asks_for_nothing(iltools: Any, archive: Path, tmp_path: Path) -> None:
    pictures = pytest.importorskip("PIL.Image", reason="the screenshot is read by Pillow")
    assert iltools("report", archive, "--out", tmp_path / "report.html").code == 0
    seen = look_at(tmp_path / "report.html", tmp_path)
    assert (seen.console, seen.requests) == ([], [])
    assert seen.elements.count("<figure") == 1 + len(LENGTHS)
    shown = np.asarray(pictures.open(io.BytesIO(seen.picture)).convert("RGB"), dtype=np.int64)
    blue = (shown[..., 2] > 200) & (shown[..., 0] < 100)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 20
    assert blue.sum() > 2000, "the bars of the histogram"
    # The same eyes see what would be wrong.
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<img src='http://evil.example/x.png'><script>console.error('boo')</script>")
    seen = look_at(wrong, tmp_path)
    assert "http://evil.example/x.png" in seen.requests
    assert any("boo" in line for line in seen.console)


def test_a_page_of_a_store(iltools: Any, archive: Path, tmp_path: Path) -> None:
    """The NaN keeps one clip out of the store; its archive still tells of it."""
    built = iltools("build", archive, "--out", tmp_path / "store", "--healthy")
    assert built.code == 0, built.err
    document = iltools("report", tmp_path / "store", "--out", tmp_path / "page", "--json").json
    assert (document["num_clips"], document["findings"]) == (4, 0)
    page = Page(tmp_path / "page.html")
    assert "nothing found" in page.text
    assert page.tags["figure"] == 5
    from_archive = iltools("report", tmp_path / "store", "--out", tmp_path / "b.html", "--archive", archive, "--json")
    assert from_archive.json["findings"] == 1
    assert iltools("report", archive, "--out", tmp_path / "b.html", "--archive", archive).code == 2


def test_a_page_with_coverage(iltools: Any, tmp_path: Path) -> None:
    store = time_store(tmp_path / "store", [4.0, 2.6, 7.4])
    sampler = MotionSampler(store, 50, 0.2, clip_weights=[1, 0, 1])
    World(sampler, 20).run(50, lambda _, bins: np.where(bins > 9, 0.5, 0.0))
    sampler.dumps(tmp_path / "state.npz")
    options = ("--coverage", tmp_path / "state.npz", "--out", tmp_path / "page.html")
    assert iltools("report", store.path, *options).code == 0
    page = Page(tmp_path / "page.html")
    coverage = sampler.coverage()
    cells = re.findall(r"([\d.]+) to ([\d.]+) s: ([\d.e+-]+)", page.text[page.text.index("sampler saw") :])
    wanted = [
        (begin, end, passes)
        for begin, end, passes in zip(coverage.bin_begin, coverage.bin_end, coverage.passes, strict=True)
    ]
    np.testing.assert_allclose(np.array(cells, dtype=float), np.array(wanted), rtol=6e-3, atol=6e-3)
    failures = coverage.of_clips(coverage.failures)
    assert f"made/clip2 {failures[2]:,}" in page.text
    assert "made/clip1: has weight 0" in page.text


def test_a_page_of_a_store_that_grows(iltools: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the collector needs the torch extra")
    from iltools_datasets.collection import ExpertTrajectoryCollector

    with ExpertTrajectoryCollector(4, 2, directory=tmp_path / "store", num_envs=3) as collector:
        collector.add_step(np.zeros((3, 4), np.float32), np.zeros((3, 2), np.float32))
        collector.flush()
        empty = iltools("report", tmp_path / "store", "--out", tmp_path / "empty.html", "--json")
        assert empty.code == 0, empty.err
        assert empty.json["num_clips"] == 0
        for step in range(20):
            rows = np.full((3, 4), step, np.float32)
            collector.add_step(rows, rows[:, :2])
        collector.mark_trajectory_end(env_ids=[0, 1, 2])
        collector.flush()
        outcome = iltools("report", tmp_path / "store", "--out", tmp_path / "page.html")
        assert outcome.code == 0, outcome.err
        page = Page(tmp_path / "page.html")
        assert "which grows" in page.text
        assert "clips 3" in page.text
        assert page.tags["figure"] == 4


def test_its_size_does_not_grow_with_the_set(iltools: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 30)).astype(np.float32)
    sizes = []
    for count in (100, 3000):
        with StoreBuilder(tmp_path / f"{count}") as builder:
            for number in range(count):
                states = {"joint_pos": rows[: 2 + number % 200], "joint_vel": rows[: 2 + number % 200]}
                builder.add(number, 0, states, {"action": rows[: 1 + number % 200]}, name=f"clip{number}")
        options = ("--examined", 50, "--shown", 10, "--json")
        document = iltools("report", tmp_path / f"{count}", "--out", tmp_path / "page.html", *options).json
        assert (document["num_clips"], document["examined"]) == (count, 50)
        page = Page(tmp_path / "page.html")
        assert f"10 of {count:,}, evenly spread" in page.text
        assert f"50 of {count:,} clips, evenly spread, were looked at" in page.text
        assert "/clip0" in page.text
        assert f"/clip{count - 1}" in page.text
        assert page.tags["figure"] == 11
        sizes.append(document["bytes"])
    assert max(sizes) < 1.5 * min(sizes) < 300_000


@pytest.mark.parametrize(
    ("name", "words"),
    [("page.pdf", "ends in .html"), ("s3://bucket/page.html", "found a URL of"), ("folder.html", "found a directory")],
)
def test_what_is_no_page_is_refused_first(iltools: Any, archive: Path, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.html").mkdir()
    place = name if "://" in name else tmp_path / name
    outcome = iltools("report", archive, "--out", place)
    assert outcome.code == 2
    assert words in " ".join(outcome.err.split())
    assert {path.name for path in tmp_path.iterdir()} == {"folder.html", "motion.zarr"}
    assert iltools("report", tmp_path / "nothing", "--out", tmp_path / "page.html").code == 2
    assert not (tmp_path / "page.html").exists()
