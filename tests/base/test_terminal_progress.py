"""A progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys

import pytest
from iltools_datasets._base.terminal_progress import terminal_progress
from iltools_datasets.errors import MissingExtraError


@pytest.mark.parametrize("show", [None, False])
def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str], show: bool | None) -> None:
    with terminal_progress("building", 2, show) as advance:
        advance()
    assert capsys.readouterr() == ("", "")


def test_a_bar_goes_to_standard_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="needs the cli extra")
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, a terminal
    with terminal_progress("building", 2, True) as advance:
        advance()
        advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert "building" in err
    assert "2/2" in err


def test_without_rich_only_an_explicit_wish_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with terminal_progress("building", 1, None) as advance:
        advance()
    with pytest.raises(MissingExtraError, match="cli"), terminal_progress("building", 1, True):
        pass
