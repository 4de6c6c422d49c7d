"""The examples of the page on JAX run, one after the other, as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="needs the jax extra")

from stores import build_store, make_clips

pytestmark = pytest.mark.jax

PAGE = Path(__file__).parents[2] / "docs" / "jax.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build_store(tmp_path / "store", make_clips([30, 40, 25, 19]))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
