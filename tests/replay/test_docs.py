"""The examples of the pages on replays run, one after the other, as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from archives import motion_clips, write_archive

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("torchrl", reason="needs the torch extra")

pytestmark = pytest.mark.torch

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "fewest"), [("replay.md", 10), ("migration.md", 3), ("windows.md", 4)])
def test_the_examples_of_a_page(page: str, fewest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "archive.zarr", motion_clips(lengths=(30, 20, 1), nq=10, nv=9))
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= fewest
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", ["replay.md", "migration.md", "windows.md"])
def test_every_link_on_a_page_leads_somewhere(page: str) -> None:
    text = (DOCS / page).read_text()
    titles = re.findall(r"^##+ (.*)$", text, re.MULTILINE)
    headings = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= headings
    assert all((DOCS / name).is_file() for name in re.findall(r"\]\(([\w-]+\.md)[#)]", text))
