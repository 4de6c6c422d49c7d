"""`iltools view --3d`: where bodies are, what hangs together, and what a browser and rerun make of the file."""

from __future__ import annotations

import io
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import look_at
from iltools_datasets.archive import ArchiveWriter
from iltools_datasets.cli.bodies import Bodies, bodies_of
from iltools_datasets.cli.looked_at import ClipInfo
from iltools_datasets.cli.motion_page import motion_page
from iltools_datasets.cli.opened import open_path
from iltools_datasets.errors import MissingKeyError, SourceError, SourceNotFoundError
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

pytest.importorskip("typer", reason="the command line needs the extra cli")

MODEL = """
<mujoco>
  <worldbody>
    <body name="pelvis" pos="0 0 1">
      <freejoint/> <geom size="0.1" mass="1"/>
      <body name="thigh" pos="0 0.1 0">
        <joint name="hip" axis="0 1 0"/> <geom size="0.1" mass="1"/>
        <body name="shank" pos="0 0 -0.4">
          <joint name="knee" axis="0 1 0"/> <geom size="0.1" mass="1"/>
          <body name="foot" pos="0.1 0 -0.4"> <joint name="ankle" axis="0 1 0"/> <geom size="0.1" mass="1"/> </body>
        </body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
NAMES = ["pelvis", "thigh", "shank", "foot"]
STATES = 40


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "leg.xml").write_text(MODEL)
    return tmp_path / "leg.xml"


def motion(seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A root's positions [T, 3] and rotations wxyz [T, 4], and joints [T, 3]: knee, hip, ankle."""
    time = np.arange(STATES)[:, None] / 20 + seed
    position = np.concatenate([time, 0.1 * np.sin(time), 0.9 + 0 * time], axis=1)
    turned = Rotation.from_rotvec(np.concatenate([0.1 * np.sin(time), 0.2 * np.cos(time), time], axis=1))
    return position, turned.as_quat(scalar_first=True), np.sin(time * [1.0, 2.0, 3.0])


def kinematics(position: NDArray[Any], rotation: NDArray[Any], joints: NDArray[Any]) -> NDArray[np.float64]:
    """Where the bodies of the leg are, [T, 4, 3], by scipy's rotations."""
    turned = Rotation.from_quat(rotation, scalar_first=True)
    knee, hip, ankle = joints.T
    del ankle  # turns the foot in its own place
    places = [position]
    for offset, angle in (((0, 0.1, 0), hip), ((0, 0, -0.4), knee), ((0.1, 0, -0.4), 0 * knee)):
        places.append(places[-1] + turned.apply(offset))
        turned = turned * Rotation.from_rotvec(np.outer(angle, [0, 1, 0]))
    return np.stack(places, axis=1)


def write(path: Path, **clips: tuple[dict[str, Any], dict[str, Any]]) -> Path:
    with ArchiveWriter(path) as writer:
        for name, (arrays, attributes) in clips.items():
            writer.add("lab", "walk", name, arrays, {"fps": 20.0, **attributes})
    return path


@pytest.fixture
def bodies_archive(tmp_path: Path) -> tuple[Path, NDArray[Any]]:
    places = kinematics(*motion())
    places[7, 3] = np.nan
    other = kinematics(*motion(5))
    clips = {name: ({"body_pos_w": rows}, {"body_names": NAMES}) for name, rows in (("a", places), ("b", other))}
    return write(tmp_path / "bodies.zarr", **clips), np.stack([places, other])


def test_joints_become_bodies_as_scipy_has_them(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="a model needs the extra viz")
    position, rotation, joints = motion()
    rows = np.concatenate([position, rotation, joints], axis=1)
    xyzw = np.concatenate([position, rotation[:, [1, 2, 3, 0]], joints], axis=1)
    names = ["knee", "hip", "ankle"]
    path = write(
        tmp_path / "a.zarr",
        wxyz=({"qpos": rows}, {"joint_names": names}),
        xyzw=({"qpos": xyzw}, {"joint_names": names, "quaternion_order": "xyzw"}),
        unnamed=({"qpos": rows[:, [*range(7), 8, 7, 9]]}, {}),
        joints=({"joint_pos": joints}, {"joint_names": names}),
        fewer=({"joint_pos": joints[:, :2]}, {"joint_names": names[:2]}),
        wrong=({"joint_pos": joints}, {"joint_names": ["knee", "hip", "elbow"]}),
        wide=({"joint_pos": joints[:, :2]}, {}),
    )
    opened = open_path(str(path))
    at = {clip.name: number for number, clip in enumerate(opened.clips)}
    for name in ("wxyz", "xyzw", "unnamed"):
        # The keys of an archive are those of any clip, so each clip is read by the first that it has.
        found = bodies_of(opened, at[name], model)
        np.testing.assert_allclose(found.positions, kinematics(position, rotation, joints), atol=1e-6)
        assert found.names == NAMES
        assert found.links == [(0, 1), (1, 2), (2, 3)]
    stands = np.tile([0, 0, 1.0], (STATES, 1)), np.tile([1.0, 0, 0, 0], (STATES, 1))
    found = bodies_of(opened, at["joints"], model)
    np.testing.assert_allclose(found.positions, kinematics(*stands, joints), atol=1e-6)
    assert any("the root stays" in note for note in found.notes)
    assert any("'ankle'" in note for note in bodies_of(opened, at["fewer"], model).notes)
    with pytest.raises(SourceError, match="no joint called 'elbow'; it has 'hip', 'knee', 'ankle'"):
        bodies_of(opened, at["wrong"], model)
    with pytest.raises(SourceError, match="or 10 columns, found 2 columns"):
        bodies_of(opened, at["wide"], model)
    with pytest.raises(MissingKeyError, match="--mjcf"):
        bodies_of(opened, at["joints"])
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        bodies_of(opened, at["joints"], tmp_path / "nowhere.xml")
    (tmp_path / "torn.xml").write_text(MODEL[:300])
    with pytest.raises(SourceError, match=r"torn\.xml: expected a MuJoCo model"):
        bodies_of(opened, at["joints"], tmp_path / "torn.xml")


def test_recorded_bodies_hang_together_as_the_model_says(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="a model needs the extra viz")
    rows = kinematics(*motion())
    path = write(
        tmp_path / "a.zarr",
        all=({"body_pos_w": rows}, {"body_names": NAMES}),
        some=({"body_pos_w": rows[:, [3, 0]]}, {"body_names": ["foot", "pelvis"]}),
        other=({"body_pos_w": rows[:, :2]}, {"body_names": ["hand", "pelvis"]}),
        unnamed=({"body_pos_w": rows}, {}),
    )
    opened = open_path(str(path))
    found = {clip.name: bodies_of(opened, number, model) for number, clip in enumerate(opened.clips)}
    assert found["all"].links == [(0, 1), (1, 2), (2, 3)]
    assert found["some"].links == [(1, 0)]  # across the bodies between
    assert found["other"].links == []
    assert "has no body called 'hand'" in found["other"].notes[0]
    assert found["unnamed"].names == ["body 0", "body 1", "body 2", "body 3"]
    assert "--mjcf" in bodies_of(opened, 0).notes[-1]
    np.testing.assert_array_equal(found["all"].positions, rows.astype(np.float32))


def told(page: Path) -> dict[str, Any]:
    return json.loads(re.search(r'id="motion"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_the_page_puts_bodies_where_they_are(
    iltools: Any, bodies_archive: tuple[Path, NDArray[Any]], tmp_path: Path
) -> None:
    """The page's own script says where; a script that is added asks it."""
    archive, rows = bodies_archive
    outcome = iltools("view", archive, "--clips", "a,b", "--3d", tmp_path / "motion.html")
    assert outcome.code == 0, outcome.err
    assert "which bodies hang together is not known" in outcome.err
    asked = "told.clips.map((c) => [...Array(c.frames).keys()].map((f) => c.names.map((_, b) => where(c, f, b))))"
    page = (tmp_path / "motion.html").read_text()
    asking = tmp_path / "asking.html"
    answer = f"<script>document.getElementById('hint').id = 'x'; document.title = JSON.stringify({asked})</script>"
    asking.write_text(page.replace("</body>", answer + "</body>"))
    seen = look_at(asking, tmp_path)
    found = json.loads(re.search(r"<title>(.*?)</title>", seen.elements)[1])
    found = np.array([[[b or [np.nan] * 3 for b in frame] for frame in clip] for clip in found])
    np.testing.assert_allclose(found, rows, atol=2e-5)  # half a step of the box's largest side
    assert np.isnan(found[0, 7, 3]).all()


def test_a_browser_plays_it_and_asks_for_nothing(
    iltools: Any, bodies_archive: tuple[Path, NDArray[Any]], model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mujoco", reason="a model needs the extra viz")
    pictures = pytest.importorskip("PIL.Image", reason="the screenshot is read by Pillow")
    archive, _ = bodies_archive
    assert iltools("view", archive, "--clip", "a", "--3d", tmp_path / "motion.html", "--mjcf", model).code == 0

    def picture(moment: str) -> NDArray[Any]:
        seen = look_at(tmp_path / "motion.html", tmp_path, fragment=moment)
        assert (seen.console, seen.requests) == ([], [])
        assert (">Play<" if moment else ">Pause<") in seen.elements
        if moment:
            assert f">{float(moment[2:]):.2f} of 1.95 s<" in seen.elements
        return np.asarray(pictures.open(io.BytesIO(seen.picture)).convert("RGB"), dtype=np.int64)

    first, later = picture("t=0.5"), picture("t=1.5")
    for shown in (first, later):
        assert (np.abs(shown - [31, 119, 180]).max(axis=2) < 8).sum() > 300, "points and links in the clip's colour"
    assert (np.abs(first - later).max(axis=2) > 50).sum() > 300
    picture("")


def test_names_in_the_page_are_text(tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script><img src=x>\u2028\ud800"
    clip = ClipInfo("lab", name, 3, 50.0)
    page = tmp_path / "page.html"
    page.write_bytes(motion_page([Bodies(clip, [name], np.zeros((3, 1, 3), np.float32), [], [name])], name))
    assert page.read_text().count("<script") == 2
    assert "<img" not in page.read_text()
    assert told(page)["clips"][0]["names"] == [name]
    seen = look_at(page, tmp_path)
    assert (seen.console, seen.requests) == ([], [])


def test_a_long_clip_is_thinned_and_says_so(tmp_path: Path) -> None:
    rows = np.cumsum(np.ones((13_000, 2, 3), np.float32), axis=0)
    page = tmp_path / "page.html"
    page.write_bytes(motion_page([Bodies(ClipInfo("lab", "long", 13_000, 50.0), ["a", "b"], rows)], "long"))
    assert "one of 3 frames is shown" in page.read_text()
    assert (told(page)["clips"][0]["frames"], told(page)["clips"][0]["step"]) == (4334, 3)
    assert page.stat().st_size < 100_000


def test_rerun_reads_the_recording(
    iltools: Any, bodies_archive: tuple[Path, NDArray[Any]], model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rerun", reason="a recording needs the extra viz")
    pytest.importorskip("mujoco", reason="a model needs the extra viz")
    archive, rows = bodies_archive
    place = tmp_path / "motion.rrd"
    assert iltools("view", archive, "--clips", "a,b", "--3d", place, "--mjcf", model).code == 0
    chunks = {}
    for chunk in pytest.importorskip("rerun.chunk").RrdReader(place).stream():
        batch = chunk.to_record_batch()
        chunks |= {(chunk.entity_path, name): batch.column(name) for name in batch.schema.names}
    for number, name in enumerate("ab"):
        entity = f"/clips/lab\\/walk\\/{name}"
        points = np.array(chunks[entity, "Points3D:positions"].to_pylist(), np.float32)
        np.testing.assert_array_equal(points, rows[number].astype(np.float32))
        strips = np.array(chunks[f"{entity}/links", "LineStrips3D:strips"].to_pylist(), np.float32)
        np.testing.assert_array_equal(strips[:, 1], rows[number][:, 1:3].astype(np.float32))
        assert strips.shape == (STATES, 3, 2, 3)
        seconds = chunks[entity, "time"].cast("int64").to_numpy() / 1e9
        np.testing.assert_allclose(seconds, np.arange(STATES) / 20, atol=1e-8)
        assert chunks[entity, "Points3D:labels"].to_pylist() == [NAMES]
    assert {path.name for path in tmp_path.iterdir()} == {"bodies.zarr", "leg.xml", "motion.rrd"}


def test_what_cannot_be_written_is_refused_first(
    iltools: Any, bodies_archive: tuple[Path, NDArray[Any]], tmp_path: Path
) -> None:
    archive, _ = bodies_archive
    has_mujoco = find_spec("mujoco") is not None
    for options, words in (
        (("--3d", tmp_path / "a.mp4"), "expected a name that ends in .html"),
        (("--3d", "s3://bucket/a.html"), "found a URL of"),
        (("--3d", tmp_path / "a.html", "--out", tmp_path / "b.png"), "--3d"),
        (("--3d", tmp_path / "a.html", "--mjcf", tmp_path / "no.xml"), "no such file" if has_mujoco else "[viz]"),
        (("--mjcf", tmp_path / "no.xml"), "goes with --3d"),
        (("--3d", tmp_path / "a.html", "--clips", "a,a"), "twice"),
        (("--3d", tmp_path / "a.html", "--clips", "a", "--clip", "b"), "--clip"),
    ):
        outcome = iltools("view", archive, *options)
        assert outcome.code == 2, options
        assert words in " ".join(outcome.err.split()), outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"bodies.zarr"}
