"""Notebooks of examples/ as pages: a page's comment `<!-- notebook: FILE -->` becomes the cells of examples/FILE."""

import json
import re
from pathlib import Path

from sphinx.application import Sphinx

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_PLACE = re.compile(r"^<!-- notebook: (\S+) -->$", re.MULTILINE)


def as_markdown(notebook: Path) -> str:
    """The cells one below the other: text as it is, code in blocks. Outputs are not shown."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
        for cell in cells
    ]
    return "\n\n".join(texts)


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    def cells(found: re.Match[str]) -> str:
        notebook = EXAMPLES / found.group(1)
        app.env.note_dependency(str(notebook))
        return as_markdown(notebook)

    source[0] = _PLACE.sub(cells, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
