"""What the package cannot do without: a system that it is built for, and its native module."""

import sys
from importlib.util import find_spec


def require_native() -> None:
    """Raise ImportError, with what to do, where the native module cannot be or is not."""
    if sys.platform == "win32":
        raise ImportError("iltools-datasets runs on Linux and macOS, not on Windows; there it runs in WSL, as on Linux")
    if find_spec("iltools_datasets._core") is None:
        raise ImportError(
            "the native module iltools_datasets._core is missing: this is a source tree that was not built; "
            "`make build` builds it in place, `pip install .` installs it elsewhere"
        )
