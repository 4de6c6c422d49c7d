"""Motion of a human body in npz: AMASS, SMPL, SMPL-H and SMPL-X parameters, without a body model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from iltools_datasets.errors import SourceError
from iltools_datasets.sources.formats.held import Held
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource

_KINDS = (
    {"poses", "trans"},
    {"poses", "betas"},
    {"pose_body", "root_orient"},
    {"smpl_poses"},
    {"global_orient", "body_pose"},
)
_POSES = ("poses", "pose_body", "smpl_poses", "body_pose")
_SHAPE = ("betas", "gender")


class SmplSource(ToldSource):
    """`poses [T, 3 * joints]` (or `root_orient`, `pose_body`, ...), `trans [T, 3]`, `betas`, `mocap_frame(_)rate`.

    Every member with a row per state is kept as it is: rotations are axis times angle in radians, each in its parent's
    frame, translations in metres. No body model is evaluated, so there are no positions of joints, and no robot: that
    is what retargeting is for. `betas` and `gender` are attributes. There are no quaternions.
    """

    format = "smpl-npz"
    summary = "AMASS, SMPL and SMPL-X npz: poses, trans, betas as they are, without a body model"
    suffixes = (".npz",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        names = member_names(path)
        return any(kind <= names for kind in _KINDS)

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        path = file.path
        with Npz(path, self.skip) as npz:
            fps = self.rate_in(npz)
            body = Held(str(path), {key: npz.read(key) for key in npz.arrays})
            self.leave_out(path, npz.unreadable, ", a pickled object, which is never read")
        poses = body.first(_POSES)
        if poses is None or body.arrays[poses].dtype.kind != "f" or not len(body.arrays[poses]):
            raise SourceError(f"{path}: none of {', '.join(_POSES)} holds a row of rotations per state")
        arrays = body.rows(len(body.arrays[poses]), _SHAPE)
        attributes = body.attributes(arrays)
        attributes |= self.all_names(path)
        body.say_what_is_left(self, path, {*arrays, *attributes})
        self.about(
            path, "a human body and no robot, kept as it is; retarget it (GMR, for instance) to train a robot on it"
        )
        yield Recording(
            arrays, fps=fps, quaternions=None, attributes={**attributes, "rotations": "axis times angle (rad), local"}
        )
