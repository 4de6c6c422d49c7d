"""A file that appears in two places: shared where the file system has links, and never copied for another reason."""

import errno
import os
import stat
from pathlib import Path

import pytest
from iltools_datasets._base.files import link_or_copy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "column.f32"
    path.write_bytes(bytes(range(256)))
    path.chmod(0o444)
    return path


def test_it_is_one_file_under_two_names(file: Path, tmp_path: Path) -> None:
    assert link_or_copy(file, tmp_path / "twin")
    assert (tmp_path / "twin").samefile(file)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS])
def test_it_is_copied_where_there_are_no_links(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    assert not link_or_copy(file, tmp_path / "twin")
    twin = tmp_path / "twin"
    assert twin.read_bytes() == file.read_bytes()
    assert not twin.samefile(file)
    assert stat.S_IMODE(twin.stat().st_mode) == 0o444


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
def test_what_is_wrong_with_the_disk_is_said(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match=os.strerror(code)):
        link_or_copy(file, tmp_path / "twin")
    assert not (tmp_path / "twin").exists()
