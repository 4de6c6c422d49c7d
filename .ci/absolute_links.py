"""Make the README's links work on a package index: `python .ci/absolute_links.py https://host/owner/name REF`.

An index shows the README alone, so a link to a file beside it leads nowhere. Where the repository lies is known where
it is released from, and there this writes it into README.md and pyproject.toml, before the wheel is built.
"""

import re
import sys
from pathlib import Path


def with_absolute_links(text: str, repository: str, ref: str) -> str:
    """Return Markdown in which what lies beside it is found in the repository: pages as pages, pictures as pictures."""

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link["picture"] else "blob"
        return f"{link['text']}({repository}/{kind}/{ref}/{link['path']})"

    return re.sub(r"(?P<text>(?P<picture>!?)\[[^\]]*\])\((?!\w+:|#)(?P<path>[^)\s]+)\)", absolute, text)


def with_urls(project: str, repository: str, ref: str) -> str:
    """Return a pyproject.toml that says where the project is at home."""
    urls = {
        "Repository": repository,
        "Documentation": f"{repository}/tree/{ref}/docs",
        "Changelog": f"{repository}/blob/{ref}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    lines = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return project.replace("[project.scripts]", f"[project.urls]\n{lines}\n[project.scripts]", 1)


if __name__ == "__main__":
    repository, ref = sys.argv[1:]
    for name, changed in (("README.md", with_absolute_links), ("pyproject.toml", with_urls)):
        file = Path(name)
        file.write_text(changed(file.read_text(), repository, ref))
