"""The section `evaluate.things`."""

from pathlib import Path

import pytest

from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.evaluation.scoring.things.config import NETWORKS, ThingsConfig


def test_the_folders_are_those_that_are_given() -> None:
    assert ThingsConfig().folders == {}
    config = ThingsConfig(swav="models/swav", alexnet="~/alexnet")
    assert config.folders == {"alexnet": Path.home() / "alexnet", "swav": Path("models/swav")}
    assert tuple(ThingsConfig.__dataclass_fields__) == NETWORKS


def test_networks_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluate\.things names networks \(clip\).*Set evaluate\.preset: things"):
        EvaluateConfig(things=ThingsConfig(clip="models/clip"))
    assert EvaluateConfig(preset="things").things == ThingsConfig()
