"""Pages that are one file: elements whose text is escaped when it is written, and a policy that loads nothing."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from iltools_datasets._base.local_path import local_path
from iltools_datasets.errors import ArgumentError

Node = ElementTree.Element

_STYLE = Path(__file__).with_name("page.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser is told to load nothing, whatever a clip's name may say."""
_WITH_SCRIPT = "; script-src 'unsafe-inline'"

_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def element(tag: str, *content: Node | str, **attributes: object) -> Node:
    """Return an element with text and elements in it; whatever is text or attribute is escaped when it is written.

    A name that Python keeps for itself ends in an underscore (`class_`), other underscores stand for hyphens. Text of
    `script` and `style` is the exception that HTML makes: it is written as it is.
    """
    node = Node(tag, {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()})
    for part in content:
        if isinstance(part, Node):
            node.append(part)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + part
        else:
            node.text = (node.text or "") + part
    return node


def html_page(title: str, *content: Node, with_script: bool = False) -> bytes:
    """Return a page of these elements as HTML in UTF-8; control characters in texts become question marks in a box."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY + (_WITH_SCRIPT if with_script else "")),
        element("meta", name="viewport", content="width=device-width"),
        element("title", title),
        element("style", _STYLE.read_text(encoding="utf-8")),
    )
    page = element("html", head, element("body", *content), lang="en")
    for node in page.iter():
        node.text, node.tail = _writable(node.text), _writable(node.tail)
        node.attrib = {name: _writable(value) or "" for name, value in node.attrib.items()}
    written: bytes = ElementTree.tostring(page, encoding="utf-8", method="html")
    return b"<!DOCTYPE html>\n" + written


def checked_file(path: Path, endings: tuple[str, ...]) -> Path:
    """Return the file to write: one without an ending gets the first of them.

    Raises ArgumentError for a URL, another ending, and a directory.
    """
    path = local_path(path)
    if not path.suffix:
        path = path.with_name(path.name.rstrip(".") + endings[0])
    if path.suffix.lower() not in endings:
        raise ArgumentError(f"{path}: expected a name that ends in {' or '.join(endings)}")
    if path.is_dir():
        raise ArgumentError(f"{path}: expected a file to write, found a directory")
    return path


def _writable(text: str | None) -> str | None:
    return None if text is None else _UNWRITABLE.sub("\ufffd", text)
