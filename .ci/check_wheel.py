"""Audit wheels before anybody installs them: `python .ci/check_wheel.py dist/*.whl`.

One abi3 wheel for Python 3.11 and later per platform. On Linux it asks for no symbol newer than glibc 2.17 has, which
is that of manylinux2014; its claims are held against the library by auditwheel and abi3audit.
"""

import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

NEWEST_GLIBC = (2, 17)
PLATFORMS = [
    {"manylinux_2_17_x86_64", "manylinux2014_x86_64"},
    {"manylinux_2_17_aarch64", "manylinux2014_aarch64"},
    {"macosx_11_0_arm64"},
]


def check_name(wheel: Path) -> bool:
    """End unless the name says one of the platforms that are served; tell whether it is Linux."""
    *_, python, abi, platform = wheel.name.removesuffix(".whl").split("-")
    if (python, abi) != ("cp311", "abi3") or set(platform.split(".")) not in PLATFORMS:
        sys.exit(f"{wheel.name}: expected cp311-abi3 for manylinux_2_17 (x86_64, aarch64) or macOS 11 (arm64)")
    return platform.startswith("manylinux")


def needed_glibc(library: bytes) -> tuple[int, ...]:
    """Return the newest version of glibc of which a shared library asks for symbols."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    versions = [
        tuple(map(int, auxiliary.name.removeprefix("GLIBC_").split(".")))
        for section in ELFFile(BytesIO(library)).iter_sections()
        if isinstance(section, GNUVerNeedSection)
        for _, auxiliaries in section.iter_versions()
        for auxiliary in auxiliaries
        if auxiliary.name.startswith("GLIBC_")
    ]
    return max(versions)


def check_glibc(wheel: Path) -> None:
    """End if a library in the wheel needs a newer glibc than its name says."""
    with ZipFile(wheel) as content:
        libraries = [name for name in content.namelist() if name.endswith(".so")]
        assert libraries, f"{wheel}: no native module"
        for name in libraries:
            needed = needed_glibc(content.read(name))
            said = ".".join(map(str, needed))
            if needed > NEWEST_GLIBC:
                sys.exit(f"{wheel.name}: {name} needs glibc {said}, expected at most 2.17")
            print(f"{wheel.name}: {name} needs glibc {said}")


def audit(wheel: Path, is_linux: bool) -> None:
    """End if an auditor finds something: symbols that no stable ABI has, or another platform than is claimed."""
    subprocess.run([sys.executable, "-m", "abi3audit", "--strict", "--summary", wheel], check=True)
    if not is_linux:
        return
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", wheel], check=True, capture_output=True, text=True
    ).stdout
    print(shown.strip())
    if not re.search(r'platform\s+tag:\s+"manylinux_2_(5|12|17)_', " ".join(shown.split())):
        sys.exit(f"{wheel.name}: auditwheel calls it by another platform")


if __name__ == "__main__":
    wheels = [Path(argument) for argument in sys.argv[1:]]
    assert wheels, "which wheels?"
    for wheel in wheels:
        is_linux = check_name(wheel)
        if is_linux:
            check_glibc(wheel)
        audit(wheel, is_linux)
