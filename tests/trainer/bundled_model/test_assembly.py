"""The model card."""

import re
from pathlib import Path

from neuroimagen.trainer.bundled_model.assembly import write_card
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.bundled_model.training import Budget, describe


def test_the_card_that_ships_is_the_one_that_training_writes(tmp_path: Path) -> None:
    folder = bundled_model_path()
    card = (folder / "README.md").read_text(encoding="utf-8")
    figures = {name: float(value) for name, value in re.findall(r"^\| (.+) \| (\d\.\d{3}) \|$", card, re.M)}
    assert len(figures) == 5
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    write_card(tmp_path, figures, trained=describe(Budget(), seed=0), size_bytes=size_bytes)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == card
