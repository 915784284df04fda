"""The model card, and the folder that the components are assembled to."""

import re
from pathlib import Path

import pytest

from neuroimagen.trainer.bundled_model import assembly
from neuroimagen.trainer.bundled_model.assembly import write_card
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.bundled_model.measuring import Figures, Identification
from neuroimagen.trainer.bundled_model.training import Budget, describe
from neuroimagen.trainer.bundled_model.unet import build_scheduler


def test_the_card_that_ships_is_the_one_that_training_writes(tmp_path: Path) -> None:
    folder = bundled_model_path()
    card = (folder / "README.md").read_text(encoding="utf-8")
    number = r"(\d\.\d{3})"
    components = {name: float(value) for name, value in re.findall(rf"^\| ([^|]+) \| {number} \|$", card, re.M)}
    assert len(components) == 5
    identification = {
        name: Identification(two_way=float(two_way), top1=float(top1), class_accuracy=float(class_accuracy))
        for name, two_way, top1, class_accuracy in re.findall(
            rf"^\| ([^|]+) \| {number} \| {number} \| {number} \|$", card, re.M
        )
    }
    assert len(identification) == 11
    write_card(
        tmp_path,
        Figures(components=components, identification=identification),
        trained=describe(Budget(), seed=0),
        size_bytes=sum(path.stat().st_size for path in folder.rglob("*.safetensors")),
    )
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == card


def test_a_model_that_is_too_large_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "write_pipeline", lambda *_: 10_000_001)
    with pytest.raises(ValueError, match=r"takes 10,000,001 bytes; at most 10,000,000 may ship"):
        assembly.assemble(tmp_path, tmp_path, scheduler=build_scheduler(), trained="", seed=0)
