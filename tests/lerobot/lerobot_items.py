"""Items of lerobot 0.4.4 on the real v3.0 set, as numbers to be kept: `python lerobot_items.py ROOT` records them.

It needs lerobot 0.4.4 (pip install --no-deps lerobot==0.4.4 beside a newer torch, then what its import misses).
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("lerobot_items.json")
CAMERA = "observation.images.cam_high"
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "windows": {
        "delta_timestamps": {
            "action": [step / 30 for step in range(16)],
            "observation.state": [-1 / 30, 0],
            CAMERA: [-2 / 30, 0],
        }
    },
    "chosen": {"episodes": [2, 5], "delta_timestamps": {"action": [0.0], CAMERA: [0.0]}},
}


def places(count: int) -> list[int]:
    """Items that are compared: the ends, and some between."""
    return [0, 1, count // 3, count // 2, count - 2, count - 1]


def described(item: dict[str, Any]) -> dict[str, Any]:
    """An item as JSON: dtype, shape and checksum of every tensor, everything else as it is."""
    return {
        key: [str(value.dtype), list(value.shape), zlib.crc32(value.contiguous().numpy().tobytes())]
        if hasattr(value, "dtype")
        else value
        for key, value in sorted(item.items())
    }


def all_items(kind: Any, root: Path) -> dict[str, Any]:
    """What a class with lerobot's arguments gives for every case."""
    found = {}
    for name, options in CASES.items():
        dataset = kind("some/name", root=root, **options)
        found[name] = {str(place): described(dataset[place]) for place in places(len(dataset))}
    return found


if __name__ == "__main__":
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    RECORDED.write_text(json.dumps(all_items(LeRobotDataset, Path(sys.argv[1])), indent=1) + "\n")
