"""Retargeted motion in npz: what others keep in pickles, saved with numpy.savez."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from iltools_datasets.sources.formats.held import Held
from iltools_datasets.sources.formats.npz import Npz, member_names
from iltools_datasets.sources.formats.retargeted import is_retargeted, read_retargeted
from iltools_datasets.sources.protocol import Recording, SourceFile
from iltools_datasets.sources.told import ToldSource


class RetargetedNpzSource(ToldSource):
    """`root_pos [T, 3]`, `root_rot [T, 4]` xyzw, `dof_pos [T, joints]`, `fps`: as `motion-pkl` reads them."""

    format = "retargeted-npz"
    summary = "retargeted motion npz: root_pos, root_rot (xyzw), dof_pos, fps"
    suffixes = (".npz",)
    usual_order = "xyzw"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return is_retargeted(member_names(path))

    def count(self, file: SourceFile) -> int:
        return 1

    def read(self, file: SourceFile) -> Iterator[Recording]:
        with Npz(file.path, self.skip) as npz:
            clip = Held(str(file.path), {key: npz.read(key) for key in npz.arrays})
            self.leave_out(file.path, npz.unreadable, ", a pickled object, which is never read")
        yield from read_retargeted(self, file.path, {None: clip})
