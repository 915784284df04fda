"""examples/own_eeg.ipynb runs from its first cell to its last, and holds no outputs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from site_pages import ROOT

NOTEBOOK = ROOT / "examples" / "own_eeg.ipynb"


def test_outputs_are_stripped() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_the_cells_run(
    tmp_path: Path, quick_command: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, with a stage of four steps."""
    from neuroimagen.launch import cli

    def main(words: list[str]) -> int:
        monkeypatch.setattr(cli, "main", own)
        code = quick_command(["neuroimagen", *words])
        monkeypatch.setattr(cli, "main", main)
        return code

    own = cli.main
    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, {cell['id']}", "exec"), names)
    result, same = names["result"], names["same"]
    assert [len(result.images), len(result.image_embeddings["image"])] == [8, 4]  # type: ignore[attr-defined]
    assert all(
        np.array_equal(a, b)
        for a, b in zip(result.images, same.images, strict=True)  # type: ignore[attr-defined]
    )
    assert "put into the run's order" in " ".join(result.notes)  # type: ignore[attr-defined]
    assert Image.open("seen.png").width > 100
    assert (tmp_path / "saved" / "mine" / "README.md").is_file()
