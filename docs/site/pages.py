"""Pages of the site that are written elsewhere: those beside the README, the examples, and the reference."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
ROOMS = {
    "iltools_datasets": "Stores",
    "iltools_datasets.torchrl": "TorchRL",
    "iltools_datasets.replay_manager": "The replay manager",
    "iltools_datasets.replay_export": "Replays from archives",
    "iltools_datasets.data": "Transitions and loaders",
    "iltools_datasets.lerobot": "LeRobot",
    "iltools_datasets.jax_stream": "Windows streamed to JAX",
    "iltools_datasets.tracking": "Motion tracking",
    "iltools_datasets.motion.lookup": "Motion look-up",
    "iltools_datasets.collection": "Collection",
    "iltools_datasets.archive": "Archives",
    "iltools_datasets.sources": "Sources",
    "iltools_datasets.doctor": "Doctor",
    "iltools_datasets.ranks": "Ranks",
    "iltools_datasets.errors": "Errors",
}


def reference_page(module: str) -> str:
    """Return where the page of a module lies."""
    return f"reference/{module.removeprefix('iltools_datasets').strip('.') or 'store'}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the reference in the navigation."""
    config.nav = [
        {"Reference": [{title: reference_page(module)} for module, title in ROOMS.items()]}
        if isinstance(entry, dict) and "Reference" in entry
        else entry
        for entry in config.nav or []
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, page in PAGES.items():
        content = re.sub(r"\]\(docs/", "](", (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=content))
    for path in sorted((ROOT / "examples").glob("*.py")):
        files.append(File.generated(config, f"examples/{path.name}", abs_src_path=str(path)))
    for module, title in ROOMS.items():
        content = f"# {title}\n\n::: {module}\n"
        files.append(File.generated(config, reference_page(module), content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Lead to the examples where the site has them."""
    return re.sub(r"\]\(\.\./((?:\.\./)?)examples/", r"](\1examples/", markdown)
