"""Where what can be made again is kept, and what the directory of a thing is called there."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

CACHE_VARIABLE = "ILTOOLS_CACHE"


def default_cache() -> Path:
    """Return `$ILTOOLS_CACHE`, or `iltools_datasets` below `$XDG_CACHE_HOME` or `~/.cache`."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iltools_datasets"


def name_in_cache(name: str, place: str | Path, otherwise: str) -> str:
    """Return the name of the directory of what lies at a place: its own, or another one, and a number of the place."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:60].lstrip(".")
    return f"{plain or otherwise}-{hashlib.blake2b(os.fsencode(place), digest_size=8).hexdigest()}"
