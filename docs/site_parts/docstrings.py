"""Docstrings as reStructuredText: they are plain text, in which `name` is code."""

import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_SPECIAL = re.compile(r"([\\*|_])")


def _escaped(text: str) -> str:
    """A paragraph without markup of its own, `code` as literals."""
    parts, end = [], 0
    for found in _CODE.finditer(text):
        parts += [_SPECIAL.sub(r"\\\1", text[end : found.start()]), f"``{found.group(2).strip()}``"]
        # A literal must not touch a letter: `row`s.
        end = found.end()
        if text[end : end + 1].isalnum():
            parts.append("\\ ")
    return "".join([*parts, _SPECIAL.sub(r"\\\1", text[end:])])


def as_rst(lines: list[str]) -> list[str]:
    """Paragraphs, lists with `- `, and indented paragraphs, which are code or formulas."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    written: list[str] = []
    for paragraph in paragraphs:
        if paragraph.startswith("    "):
            written += ["::", "", *paragraph.splitlines(), ""]
            continue
        items = re.split(r"\n(?=- )", paragraph)
        for item in items:
            text = " ".join(part.strip() for part in item.splitlines())
            is_item = text.startswith("- ")
            written += [("- " if is_item else "") + _escaped(text.removeprefix("- ")), ""]
    return written


def _process(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
