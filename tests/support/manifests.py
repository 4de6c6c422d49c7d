"""Manifests of stores, changed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and give it the checksum that belongs to it: damage that a checksum cannot show."""
    document = json.loads((path / "manifest.json").read_text())
    change(document["manifest"])
    inner = json.dumps(document["manifest"], separators=(",", ":"))
    (path / "manifest.json").write_text(f'{{"crc32c":{crc32c(inner.encode())},"manifest":{inner}}}')


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit from its definition (Castagnoli polynomial, reflected)."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF
