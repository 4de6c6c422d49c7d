"""Without the torch extra, the modules that need it say which extra to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = ["replay_manager", "replay_memmap", "replay_export", "reference", "replay.trajectory_td"]


@pytest.mark.parametrize("module", MODULES)
def test_the_extra_is_named(module: str) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['tensordict'] = sys.modules['torchrl'] = None\n"
        "from iltools_datasets.errors import MissingExtraError\n"
        "try:\n"
        f"    import iltools_datasets.{module}\n"
        "except MissingExtraError as error:\n"
        "    print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"iltools_datasets.{module} needs" in result.stdout
    assert "iltools-datasets[torch]" in result.stdout
