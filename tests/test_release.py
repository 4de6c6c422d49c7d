"""What a release says of itself: a number, changes, links that an index shows, forms, commits to learn from."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import iltools_datasets
import pytest

ROOT = Path(__file__).parent.parent
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def released() -> list[tuple[str, str]]:
    """Return number and date of each release, as the list of changes has them."""
    return re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$", CHANGELOG, re.MULTILINE)


@pytest.mark.parametrize("lock", ["Cargo.lock", "rust/core/fuzz/Cargo.lock"])
def test_the_locks_say_the_number_of_the_package(lock: str) -> None:
    packages = tomllib.loads((ROOT / lock).read_text())["package"]
    ours = {
        package["name"]: package["version"] for package in packages if package["name"] in ("iltools-core", "iltools-py")
    }
    assert ours
    assert set(ours.values()) == {iltools_datasets.__version__}


def test_the_newest_release_is_this_one() -> None:
    assert released()[0][0] == iltools_datasets.__version__


def test_changes_are_listed_by_release_and_kind() -> None:
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert [f"{number} - {date}" for number, date in released()] == headings[1:]
    assert released() == sorted(released(), key=lambda release: [int(part) for part in release[0].split(".")])[::-1]
    assert [date for _, date in released()] == sorted((date for _, date in released()), reverse=True)
    for section in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[2:]:
        kinds = re.findall(r"^### (.*)$", section, re.MULTILINE)
        assert kinds
        assert set(kinds) <= KINDS
        assert len(set(kinds)) == len(kinds)
        first, *rest = re.split(r"^### .*$", section, flags=re.MULTILINE)
        assert "- " not in first.partition("\n")[2], "a change of no kind"
        assert all(part.strip().startswith("- ") for part in rest)


def test_the_picture_is_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < 200_000


def test_forms_of_issues_are_forms() -> None:
    yaml = pytest.importorskip("yaml", reason="forms are YAML")
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) >= 3
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert form["name"]
        assert form["description"]
        fields = form["body"]
        assert all(field["type"] in ("markdown", "input", "textarea", "dropdown", "checkboxes") for field in fields)
        assert len({field["id"] for field in fields}) == len(fields)
        assert all(field["attributes"]["label"] for field in fields)
        assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_commits_to_learn_from_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([0-9a-f]{7})`", text)
    assert len(named) >= 4
    if not (ROOT / ".git").exists():
        pytest.skip("no history beside these files")
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    if shallow.stdout.strip() == "true":
        pytest.skip("a shallow clone has no history")
    for commit in named:
        subprocess.run(["git", "merge-base", "--is-ancestor", commit, "HEAD"], cwd=ROOT, check=True)
    for path in re.findall(r"`((?:sources|torchrl|motion)/[\w/.]+|core/src/[\w/.]+)`", text):
        place = ROOT / "rust" / path if path.startswith("core/") else ROOT / "python" / "iltools_datasets" / path
        assert place.exists(), path
