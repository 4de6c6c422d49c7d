"""AMP npz: the motion files of adversarial motion priors, as Isaac Lab and its relatives read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, Source, SourceFile

_DOF_KEYS = ("dof_positions", "dof_velocities")
_BODY_WIDTHS = {
    "body_positions": 3,
    "body_rotations": 4,
    "body_linear_velocities": 3,
    "body_angular_velocities": 3,
}
_VELOCITIES = ("dof_velocities", "body_linear_velocities", "body_angular_velocities")


class AmpSource(Source):
    """`fps, dof_names, body_names, dof_positions [T, D], dof_velocities, body_positions [T, B, 3]`, and so on.

    Keys, values and dtypes are kept. `body_rotations [T, B, 4]` are quaternions wxyz; body quantities are in the
    world's frame. `dof_names` become the attribute `joint_names`.

    Args:
        path: a file or a directory of files.
        motion: one name for all files; by default each file is a motion of its own.
    """

    format = "amp-npz"
    summary = "AMP motion npz: dof_positions, body_positions, body_rotations (wxyz), fps"
    suffixes = (".npz",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return member_names(path) >= {"fps", *_DOF_KEYS, *_BODY_WIDTHS}

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        with Npz(file.path) as npz:
            npz.require(("fps", "dof_names", "body_names", *_DOF_KEYS, *_BODY_WIDTHS))
            joints, bodies = npz.names("dof_names"), npz.names("body_names")
            if joints is None or bodies is None:
                raise SourceError(f"{npz.path}: 'dof_names' and 'body_names' should be strings")
            _check(npz, len(joints), len(bodies))
            known = (*_DOF_KEYS, *_BODY_WIDTHS)
            extra = sorted(npz.arrays.keys() - {"fps", "dof_names", "body_names", *known})
            self.notes += [f"{npz.path}: left out {key!r}" for key in (*extra, *npz.unreadable)]
            yield Recording(
                arrays={key: npz.read(key) for key in known},
                fps=npz.rate("fps"),
                quaternions={"body_rotations": (0,)},
                velocities=dict.fromkeys(_VELOCITIES, "as in the file"),
                attributes={"joint_names": joints, "body_names": bodies},
            )


def _check(npz: Npz, joints: int, bodies: int) -> None:
    frames = npz.arrays["dof_positions"].shape[:1]
    expected = dict.fromkeys(_DOF_KEYS, (*frames, joints))
    expected |= {key: (*frames, bodies, width) for key, width in _BODY_WIDTHS.items()}
    for key, shape in expected.items():
        spec = npz.arrays[key]
        if spec.shape != shape or spec.dtype.kind != "f":
            raise SourceError(
                f"{npz.path}: {key!r} is {spec.dtype} {list(spec.shape)}, expected floats {list(shape)} "
                f"({joints} dof names, {bodies} body names)"
            )
