"""Evaluation of a finished run: what its files hold, and what is refused."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import simulated_run
from simulated_run import Finished

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.conditions import CONDITIONS
from neuroimagen.trainer.evaluation.controls import ControlRuns
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.metrics.registry import METRICS, main_metrics
from neuroimagen.trainer.evaluation.results import Result, find, read_results, text_table
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.reconstruction.headline import Choice, write_choice
from neuroimagen.trainer.report.evaluated import Evaluated
from neuroimagen.trainer.report.page import write_report

IMAGE_CONDITIONS = {
    *("full", "semantic_only", "saliency_only", "full_detailed", "semantic_only_detailed"),
    *("oracle_class", "random_class", "vae_round_trip", "perfect_saliency", "mean_image"),
}
EEG_CONDITIONS = {
    *("eeg_classifier", "linear_decoder", "linear_decoder_detrended"),
    *("mean_slope_only", "time_index_only", "permuted_labels"),
}


def test_results_hold_every_condition_with_a_value_an_interval_and_a_definition(
    finished: Finished,
) -> None:
    run, results = finished.run, finished.results
    entries = json.loads((run / "report" / "results.json").read_text())
    assert [Result(**entry) for entry in entries] == results == read_results(run / "report" / "results.json")
    assert {entry["condition"] for entry in entries} >= IMAGE_CONDITIONS | EEG_CONDITIONS | {"chance", "ceiling"}
    for entry in entries:
        assert set(entry) == {"condition", "metric", "value", "low", "high", "n", "definition"}
        assert math.isfinite(entry["value"])
        assert entry["n"] > 0
        assert "{" not in entry["definition"]
        if entry["low"] is not None:
            assert entry["low"] <= entry["value"] + 1e-9
            assert entry["value"] <= entry["high"] + 1e-9
    for condition in IMAGE_CONDITIONS:
        assert all(find(results, condition, metric) for metric in (*main_metrics(), "inception_score", "fid", "kid"))


def test_figures_are_those_of_the_images(finished: Finished) -> None:
    results = finished.results

    def value(condition: str, metric: str) -> float:
        found = find(results, condition, metric)
        assert found is not None
        return found.value

    assert value("vae_round_trip", "ssim") > value("full", "ssim") > value("semantic_only", "ssim")
    assert value("full", "pixcorr") > value("semantic_only", "pixcorr") + 0.2
    assert value("vae_round_trip", "two_way_pixels") == 1.0
    assert value("vae_round_trip", "within_class_top1") == 1.0
    assert value("mean_image", "within_class_two_way") == 0.5  # of two stimuli it prefers the same one for both
    assert value("chance", "accuracy") == 1 / 12  # the classifier knows twelve classes, and all take part
    assert value("chance_eeg", "accuracy") == 1 / 6
    assert value("chance", "within_class_top1") == 0.5
    assert value("ceiling", "accuracy") == simulated_run.STUDY["ceiling"]["accuracy"]
    assert value("full_over_ceiling", "accuracy") == pytest.approx(value("full", "accuracy") / 0.86)
    assert value("full_minus_semantic_only", "ssim") == pytest.approx(
        value("full", "ssim") - value("semantic_only", "ssim")
    )


def test_items_are_one_line_per_image(finished: Finished) -> None:
    run, data, results = finished.run, finished.data, finished.results
    with (run / "report" / "items.csv").open(newline="") as file:
        items = list(csv.DictReader(file))
    assert len(items) == len(IMAGE_CONDITIONS) * len(Dataset.open(data).rows("test"))
    full = [float(item["ssim"]) for item in items if item["condition"] == "full"]
    found = find(results, "full", "ssim")
    assert found is not None
    assert np.mean(full) == pytest.approx(found.value, abs=1e-5)
    assert (run / "reconstructions" / items[0]["file"]).is_file()


def test_the_same_seed_gives_the_same_bytes(finished: Finished, config: EvaluateConfig, tmp_path: Path) -> None:
    run, data = finished.run, finished.data
    again = tmp_path / "run"
    shutil.copytree(run, again, ignore=shutil.ignore_patterns("report"))
    evaluate_run(again, Dataset.open(data), config)
    for name in ("results.json", "items.csv"):
        assert (again / "report" / name).read_bytes() == (run / "report" / name).read_bytes(), name


def test_several_samples_of_a_segment_count_as_their_mean(
    finished: Finished, config: EvaluateConfig, tmp_path: Path
) -> None:
    run, data, results = finished.run, finished.data, finished.results
    again = tmp_path / "run"
    (again / "reconstructions").mkdir(parents=True)
    shutil.copytree(run / "reconstructions" / "full", again / "reconstructions" / "full")
    path = again / "reconstructions" / "full" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["items"] += [{**item, "sample": 1} for item in manifest["items"]]
    path.write_text(json.dumps(manifest))
    doubled = evaluate_run(again, Dataset.open(data), config)
    for metric in main_metrics():
        assert find(doubled, "full", metric) == find(results, "full", metric)


def test_conditions_may_be_drawn_for_some_segments_and_compare_on_those_that_both_have(
    finished: Finished, config: EvaluateConfig, tmp_path: Path
) -> None:
    """`full` was chosen and has all segments; `semantic_only` has ten of them, `saliency_only` seven."""
    run, data = tmp_path / "run", finished.data
    shutil.copytree(finished.run, run, ignore=shutil.ignore_patterns("report"))
    shutil.copytree(run / "reconstructions" / "full_detailed", run / "reconstructions" / "neuroimagen")
    kept = {"semantic_only": 10, "saliency_only": 7}
    for name in ("neuroimagen", *kept):
        path = run / "reconstructions" / name / "manifest.json"
        manifest = {**json.loads(path.read_text()), "condition": name}
        if name in kept:
            manifest |= {"segments": kept[name], "items": manifest["items"][::2][: kept[name]]}
        path.write_text(json.dumps(manifest))
    choice = Choice(
        condition="full",
        by={"ssim": 1.0},
        num_segments=6,
        num_stimuli=3,
        figures={"full": {"objective": {"value": 0.5, "low": 0.4, "high": 0.6}}},
        settings={"full": json.loads((run / "reconstructions" / "full" / "manifest.json").read_text()) | {"items": 0}},
    )
    write_choice(run, choice)
    results = evaluate_run(run, Dataset.open(data), config)
    write_report(run, Dataset.open(data))

    assert {name: find(results, name, "ssim").n for name in ("full", *kept)} == {"full": 24, **kept}  # type: ignore[union-attr]
    with (run / "report" / "items.csv").open(newline="") as file:
        items = list(csv.DictReader(file))
    ssim = {
        name: {i["segment"]: float(i["ssim"]) for i in items if i["condition"] == name}
        for name in ("full", "semantic_only", "neuroimagen")
    }
    shared = ssim["semantic_only"].keys() & ssim["neuroimagen"].keys()
    difference = find(results, "neuroimagen_minus_semantic_only", "ssim")
    assert difference is not None
    assert difference.n == len(shared) == 10
    expected = np.mean([ssim["neuroimagen"][key] - ssim["semantic_only"][key] for key in shared])
    assert difference.value == pytest.approx(expected, abs=1e-5)
    assert find(results, "headline_minus_neuroimagen", "ssim").n == 24  # type: ignore[union-attr]
    assert find(results, "full_minus_semantic_only", "ssim") is None

    details = json.loads((run / "report" / "details.json").read_text())
    assert details["headline"]["condition"] == "full"
    assert details["notes"] == {
        "full": "headline",
        "semantic_only": "10 of 24 segments",
        "saliency_only": "7 of 24 segments",
    }
    table = (run / "report" / "table.txt").read_text()
    assert "full model [headline]" in table
    assert "class caption only [10 of 24 segments]" in table
    assert choice.sentence in table
    page = (run / "report" / "report.html").read_text()
    assert "chosen on the validation split" in page
    assert "10 of 24 segments" in page
    assert "| saliency map only \\[7 of 24 segments] |" in (run / "report" / "report.md").read_text()
    evaluated = Evaluated(run, Dataset.open(data))
    assert evaluated.columns == ["stimulus", "saliency map", "NeuroImagen", "reconstruction"]
    shapes = {tuple(image.shape for image in evaluated.images(item)) for item in evaluated.items}
    assert shapes == {((32, 32, 3),) * 4}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("test selection", "'test' split chose the semantic checkpoint"),
        ("unknown selection", "an unknown split chose the semantic checkpoint"),
        ("no reconstructions", "Run `neuroimagen reconstruct"),
        ("missing picture", "cannot read the image"),
        ("truncated picture", "cannot read the image"),
        ("other size", "different sizes"),
        ("foreign stimulus", "not of test stimuli"),
        ("outside file", "a file outside its folder"),
        ("broken manifest", "is not a manifest"),
    ],
)
def test_what_cannot_be_believed_is_refused(
    finished: Finished, config: EvaluateConfig, tmp_path: Path, damage: str, message: str
) -> None:
    source, data = finished.run, finished.data
    run = tmp_path / "run"
    shutil.copytree(source, run, ignore=shutil.ignore_patterns("report"))
    full = run / "reconstructions" / "full"
    manifest = json.loads((full / "manifest.json").read_text())
    picture = full / manifest["items"][3]["file"]
    if damage == "test selection":
        (run / "semantic" / "environment.json").write_text('[{"selection_split": "val"}, {"selection_split": "test"}]')
    elif damage == "unknown selection":
        (run / "semantic" / "environment.json").write_text("[{}]")
    elif damage == "no reconstructions":
        shutil.rmtree(run / "reconstructions")
        (run / "semantic" / "export").mkdir(parents=True, exist_ok=True)  # a stage that images are drawn with
    elif damage == "missing picture":
        picture.unlink()
    elif damage == "truncated picture":
        picture.write_bytes(picture.read_bytes()[:200])
    elif damage == "other size":
        from PIL import Image

        first = full / manifest["items"][0]["file"]
        Image.open(first).resize((16, 16)).save(first)
    elif damage == "foreign stimulus":
        manifest["items"][0]["stimulus"] = "stimulus_0000"  # of the training part
    elif damage == "outside file":
        manifest["items"][0]["file"] = "../../semantic/config.yaml"
    (full / "manifest.json").write_text(
        "[]" if damage == "broken manifest" else json.dumps(manifest)
    ) if full.is_dir() else None
    with pytest.raises(UserError, match=message):
        evaluate_run(run, Dataset.open(data), config)
    assert not (run / "report").exists()


def test_the_terminal_table_is_aligned_and_narrow(finished: Finished) -> None:
    lines = text_table(finished.results, main_metrics()).splitlines()
    assert len(lines) <= len(CONDITIONS) + 2
    assert max(map(len, lines)) <= 120
    assert [line for line in lines if line.startswith("full model")]


def test_the_docs_name_every_condition_and_metric() -> None:
    docs = Path(__file__).parents[3] / "docs"
    pages = (docs / "reference" / "evaluation.md", docs / "how-to" / "things-figures.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert [name for name in (*CONDITIONS, *METRICS) if f"`{name}`" not in text] == []


def test_control_runs_become_conditions_and_what_is_absent_has_a_reason(
    finished: Finished, config: EvaluateConfig, tmp_path: Path
) -> None:
    run, data = finished.run, finished.data
    copy, other = tmp_path / "run", tmp_path / "run" / "controls" / "without-subject-1"
    shutil.copytree(run, copy)
    shutil.copytree(run / "contrastive", other / "contrastive")
    runs = ControlRuns(without_subject={1: other}, absent={"drift_surrogate_full": "the order of recording is unknown"})
    results = evaluate_run(copy, Dataset.open(data), config, control_runs=runs)
    found = find(results, "eeg_classifier_unseen_subject", "accuracy")
    assert found is not None
    assert found.n == 12  # one of two subjects
    assert find(results, "drift_surrogate_full", "accuracy") is None
    sentence = "Not measured: drift surrogate, whole pipeline, the order of recording is unknown."
    assert sentence in (copy / "report" / "table.txt").read_text()
    page = write_report(copy, Dataset.open(data))
    assert sentence in page.read_text()
    assert sentence in (copy / "report" / "report.md").read_text()

    (other / "contrastive" / "environment.json").write_text(json.dumps([{"selection_split": "test"}]))
    with pytest.raises(UserError, match=r"without-subject-1.*would be biased"):
        evaluate_run(copy, Dataset.open(data), config, control_runs=runs)
