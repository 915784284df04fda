"""An evaluated run as its report reads it: examples, and files that earlier versions wrote."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import simulated_run

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.report.evaluated import (
    Evaluated,
    Item,
    choose_examples,
    evaluated_data,
    example_metrics,
    rank_rule,
)
from neuroimagen.trainer.report.page import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    scenes = simulated_run.write_dataset(folder / "data")
    run = simulated_run.write_run(folder / "run", folder / "data", scenes)
    classifier, clip = (str(tiny_diffusion_folder / name) for name in ("classifier", "clip"))
    evaluate_run(
        run, Dataset.open(folder / "data"), EvaluateConfig(classifier=classifier, clip=clip, num_resamples=100)
    )
    return run


def make_former(run: Path) -> None:
    """Rewrite the files of an evaluation as versions before the present names wrote them."""
    folder = run / "report"
    entries = json.loads((folder / "results.json").read_text())
    former = [{"row": entry.pop("condition"), **entry} for entry in entries]
    former.append({**former[0], "row": "phantom_drift", "metric": "accuracy", "value": 0.123})
    (folder / "results.json").write_text(json.dumps(former))
    text = (folder / "items.csv").read_text()
    (folder / "items.csv").write_text(text.replace("condition,", "row,", 1))
    details = json.loads((folder / "details.json").read_text())
    for key in ("headline", "notes", "made_of"):
        del details[key]
    details["absent"] = {"phantom_full": "the order of recording is unknown"}
    details["provenance"]["judges"] = details["provenance"].pop("scoring_networks")
    details["provenance"]["data"]["parts"] = details["provenance"]["data"].pop("splits")
    (folder / "details.json").write_text(json.dumps(details))


def test_an_evaluation_of_an_earlier_version_is_reported(run: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(run.parent / "data")
    copy = shutil.copytree(run, tmp_path / run.name)
    make_former(copy)
    before, now = Evaluated(copy, dataset), Evaluated(run, dataset)
    assert before.results[:-1] == now.results
    assert before.results[-1].condition == "drift_surrogate_linear_decoder"
    assert before.items == now.items
    assert before.details["provenance"]["data"]["splits"] == now.details["provenance"]["data"]["splits"]
    write_report(copy, dataset)
    for name in ("report.html", "report.md"):
        assert "Not measured: drift surrogate, whole pipeline, the order of" in (copy / "report" / name).read_text()
    assert "12.3" in (copy / "report" / "report.md").read_text()


def test_images_of_a_segment_are_those_of_the_columns(run: Path) -> None:
    evaluated = Evaluated(run, Dataset.open(run.parent / "data"))
    assert evaluated.columns == ["stimulus", "saliency map", "reconstruction"]
    item = evaluated.items[0]
    stimulus, saliency, reconstruction = evaluated.images(item)
    assert stimulus.shape == saliency.shape == reconstruction.shape == (32, 32, 3)
    keys = evaluated.dataset.stimuli.keys
    expected = evaluated.dataset.stimuli.images([keys.index(item.stimulus)], 32)[0]
    np.testing.assert_array_equal(stimulus, expected.transpose(1, 2, 0))
    assert not np.array_equal(saliency, reconstruction)


@pytest.mark.parametrize("name", ["results.json", "details.json", "items.csv", "eeg.npz"])
def test_a_file_that_is_missing_is_named_with_the_command_that_makes_it(run: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(run, tmp_path / run.name)
    (copy / "report" / name).unlink()
    with pytest.raises(UserError, match=rf"no report/{name}. Run `neuroimagen evaluate --run"):
        Evaluated(copy, Dataset.open(run.parent / "data"))


# ------------------------------------------------------------------------------------------------------------ examples


def make_item(segment: str, label: int, **figures: float) -> Item:
    return Item(
        segment=segment, stimulus="s", label=label, subject=1, predicted=0, file=f"{segment}.png", figures=figures
    )


def test_examples_follow_their_rank() -> None:
    qualities = {"c": (0, 0.5), "a": (0, 0.9), "b": (0, 0.1), "e": (1, 0.3), "d": (1, 0.3)}
    items = [
        make_item(segment, label, ssim=quality, pixcorr=quality, two_way_clip=quality)
        for segment, (label, quality) in qualities.items()
    ]
    metrics = example_metrics(items)
    assert list(metrics) == ["ssim", "pixcorr", "two_way_clip"]
    chosen = choose_examples(items, metrics)
    assert [example.segment for example in chosen[0]] == ["a", "c", "b"]
    assert [example.segment for example in chosen[1]] == ["d", "d", "e"]  # equal ones in the order of their keys
    assert rank_rule(metrics).endswith("in SSIM, PixCorr, 2-way CLIP")


def test_a_metric_that_was_not_measured_ranks_nothing_and_lower_can_be_better() -> None:
    items = [make_item("a", 0, ssim=0.5, distance=3.0), make_item("b", 0, ssim=0.5, distance=1.0)]
    assert list(example_metrics(items)) == ["ssim"]
    distance = ImageMetric(title="distance", definition="d", higher_is_better=False, compute=lambda comparison: None)
    best, _, worst = choose_examples(items, {"distance": distance})[0]
    assert (best.segment, worst.segment) == ("b", "a")


def test_the_items_file_has_a_condition_column(run: Path) -> None:
    with (run / "report" / "items.csv").open(newline="") as file:
        assert next(csv.reader(file))[0] == "condition"


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"data": 3}'])
def test_damaged_details_are_named_whichever_command_reads_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "report").mkdir()
    with pytest.raises(UserError, match="has not been evaluated"):
        evaluated_data(tmp_path)
    (tmp_path / "report" / "details.json").write_text(content)
    with pytest.raises(UserError, match=r"cannot use .*details\.json: .*Run `neuroimagen evaluate` again"):
        evaluated_data(tmp_path)
    assert evaluated_data(tmp_path, given=tmp_path / "data") == tmp_path / "data"
