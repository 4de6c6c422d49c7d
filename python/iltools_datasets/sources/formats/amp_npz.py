"""AMP npz: the motion files of adversarial motion priors, as Isaac Lab and its relatives read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from iltools_datasets.errors import SourceError
from iltools_datasets.motion.orders import find_evidence
from iltools_datasets.motion.root import find_root_body
from iltools_datasets.sources.formats.further import further_arrays, quaternion_keys
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource, turned

_DOF_KEYS = ("dof_positions", "dof_velocities")
_BODY_WIDTHS = {
    "body_positions": 3,
    "body_rotations": 4,
    "body_linear_velocities": 3,
    "body_angular_velocities": 3,
}
_VELOCITIES = ("dof_velocities", "body_linear_velocities", "body_angular_velocities")
_NAMES = ("dof_names", "body_names")


class AmpSource(ToldSource):
    """`fps, dof_names, body_names, dof_positions [T, D], dof_velocities, body_positions [T, B, 3]`, and so on.

    Keys, values and dtypes are kept, and so is every further member with a row of numbers per state.
    `body_rotations [T, B, 4]` are wxyz in the archive; they are taken for wxyz in the file, and where the angular
    velocities, or a root that would lie, say xyzw, the file is refused until somebody says which. Body quantities are
    in the world's frame. `dof_names` become the attribute `joint_names`.
    """

    format = "amp-npz"
    summary = "AMP motion npz: dof_positions, body_positions, body_rotations, fps"
    suffixes = (".npz",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return member_names(path) >= {*_DOF_KEYS, *_BODY_WIDTHS}

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        path = file.path
        with Npz(path, self.skip) as npz:
            npz.require((*_DOF_KEYS, *_BODY_WIDTHS))
            fps = self.needed_rate(path, self.rate_in(npz))
            joints = self.names(path, "joint_names", npz.names("dof_names"))
            bodies = self.names(path, "body_names", npz.names("body_names"))
            for what, member, found in (("joint_names", "dof_names", joints), ("body_names", "body_names", bodies)):
                if found is None:
                    raise SourceError(f"{path}: {member!r} should be strings; pass {what}=name,name,... if it has none")
            assert joints is not None
            assert bodies is not None
            _check(npz, len(joints), len(bodies))
            arrays = {key: npz.read(key) for key in (*_DOF_KEYS, *_BODY_WIDTHS)}
            arrays |= further_arrays(self, npz, len(arrays["dof_positions"]), {*arrays, *_NAMES})
        attributes: dict[str, object] = {"joint_names": joints, "body_names": bodies}
        rotations = arrays["body_rotations"]
        if rotations.shape[1]:
            root = find_root_body(arrays["body_positions"], bodies)
            evidence = find_evidence(rotations[:, root], rotations, arrays["body_angular_velocities"])
            order = self.order(path, evidence)
            attributes["quaternion_order_in_file"] = order
            for key in list(quaternion_keys(arrays)):
                arrays[key] = turned(arrays[key], (0,), order)
        yield Recording(
            arrays=arrays,
            fps=fps,
            quaternions=dict.fromkeys(quaternion_keys(arrays), (0,)),
            velocities=dict.fromkeys(_VELOCITIES, "as in the file"),
            attributes=attributes,
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
