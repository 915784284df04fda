"""The model card says what the pipeline is, and its figures as they were measured."""

import shutil
from pathlib import Path

import yaml

from neuroimagen.trainer.evaluation.results import Result, write_results
from neuroimagen.trainer.prediction.pipeline import Pipeline


def test_the_card_has_input_figures_and_intervals(trained, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    values = {"condition": "image_only", "n": 6, "definition": "…"}
    results = [
        Result(metric="two_way_clip", value=0.712, low=0.65, high=0.77, **values),
        Result(metric="ssim", value=0.25, low=None, high=None, **values),
        Result(metric="ssim", value=0.9, low=None, high=None, **{**values, "condition": "semantic_only"}),
        Result(metric="accuracy", value=0.1, low=None, high=None, **{**values, "condition": "chance"}),
    ]
    write_results(run / "report" / "results.json", results)
    Pipeline.from_pretrained(run, condition="image_only", device="cpu").save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "neuroimagen"
    assert "license" not in header  # nobody has said one
    assert "6 channels: Fz, Cz, Pz, Oz, P7, P8" in card
    assert "20 samples at 100 Hz, the first 100 ms after the onset" in card
    assert "unit: microvolt" in card
    lines = [line for line in card.splitlines() if line.startswith("| ")]
    assert any("71.2 % | 65.0 to 77.0 | 6 |" in line for line in lines)
    assert any("0.250 | – | 6 |" in line for line in lines)
    assert any("chance" in line.lower() for line in lines)
    assert not any("0.900" in line for line in lines)
    assert str(tmp_path) not in card


def test_without_an_evaluation_it_says_so(trained, tmp_path: Path) -> None:
    Pipeline.from_pretrained(trained.run, condition="image_only", device="cpu").save_pretrained(tmp_path / "saved")
    assert "It was not evaluated" in (tmp_path / "saved" / "README.md").read_text()
