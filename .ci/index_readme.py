"""Have the README's links lead to the repository, for a package index shows it where no other file is.

python .ci/index_readme.py https://github.com/OWNER/REPOSITORY v0.2.0
rewrites README.md in this checkout; a release does so before it builds (`.github/workflows/wheels.yml`).
"""

import re
import sys
from pathlib import Path

PICTURES = (".gif", ".jpg", ".png", ".svg")


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """Return text whose relative links lead to files of a tag, pictures to their bytes."""

    def absolute(found: re.Match[str]) -> str:
        target = found[1]
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        kind = "raw" if target.lower().endswith(PICTURES) else "blob"
        return f"]({repository.rstrip('/')}/{kind}/{tag}/{target})"

    return re.sub(r"\]\(([^)\s]+)\)", absolute, text)


if __name__ == "__main__":
    readme = Path(__file__).parent.parent / "README.md"
    readme.write_text(with_absolute_links(readme.read_text(encoding="utf-8"), *sys.argv[1:3]), encoding="utf-8")
