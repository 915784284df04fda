"""Evaluation of a finished run: what results.json holds, what is refused, and verdicts on studies of known truth."""

import csv
import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import simulated_run

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation import eeg_conditions as eeg_rows
from neuroimagen.trainer.evaluation import segment_features
from neuroimagen.trainer.evaluation.controls import ControlRuns
from neuroimagen.trainer.evaluation.evaluate import TABLE_METRICS, EvaluateConfig, evaluate_run
from neuroimagen.trainer.evaluation.feature_networks import classes_in_classifier
from neuroimagen.trainer.evaluation.metrics import DEFINITIONS
from neuroimagen.trainer.evaluation.results import ROWS, Result, find, read_results, text_table
from neuroimagen.trainer.evaluation.verdict import verdict
from neuroimagen.trainer.report.page import write_report

PICTURE_ROWS = {
    *("full", "semantic_only", "saliency_only", "full_detailed", "semantic_only_detailed"),
    *("oracle_class", "random_class", "vae_round_trip", "perfect_saliency", "mean_image"),
}
EEG_ROWS = {
    *("eeg_classifier", "linear_decoder", "linear_decoder_detrended"),
    *("mean_slope_only", "time_index_only", "permuted_labels"),
}


@pytest.fixture(scope="module")
def config(tiny_diffusion_folder: Path) -> EvaluateConfig:
    return EvaluateConfig(
        classifier=str(tiny_diffusion_folder / "classifier"),
        clip=str(tiny_diffusion_folder / "clip"),
        num_resamples=300,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, config: EvaluateConfig) -> tuple[Path, Path, list[Result]]:
    """Run folder, data set and results; read only."""
    folder = tmp_path_factory.mktemp("finished")
    scenes = simulated_run.write_dataset(folder / "data")
    run = simulated_run.write_run(folder / "run", folder / "data", scenes)
    return run, folder / "data", evaluate_run(run, Dataset.open(folder / "data"), config)


def test_results_hold_every_row_with_a_value_an_interval_and_a_definition(
    finished: tuple[Path, Path, list[Result]],
) -> None:
    run, _, results = finished
    entries = json.loads((run / "report" / "results.json").read_text())
    assert [Result(**entry) for entry in entries] == results == read_results(run / "report" / "results.json")
    assert {entry["row"] for entry in entries} >= PICTURE_ROWS | EEG_ROWS | {"chance", "ceiling"}
    for entry in entries:
        assert set(entry) == {"row", "metric", "value", "low", "high", "n", "definition"}
        assert math.isfinite(entry["value"])
        assert entry["n"] > 0
        assert "{" not in entry["definition"]
        if entry["low"] is not None:
            assert entry["low"] <= entry["value"] + 1e-9
            assert entry["value"] <= entry["high"] + 1e-9
    for row in PICTURE_ROWS:
        assert all(find(results, row, metric) for metric in (*TABLE_METRICS, "inception_score", "fid", "kid"))


def test_figures_are_those_of_the_pictures(finished: tuple[Path, Path, list[Result]]) -> None:
    _, _, results = finished

    def value(row: str, metric: str) -> float:
        found = find(results, row, metric)
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


def test_items_are_one_line_a_picture(finished: tuple[Path, Path, list[Result]]) -> None:
    run, data, results = finished
    with (run / "report" / "items.csv").open(newline="") as file:
        items = list(csv.DictReader(file))
    assert len(items) == len(PICTURE_ROWS) * len(Dataset.open(data).rows("test"))
    full = [float(item["ssim"]) for item in items if item["row"] == "full"]
    found = find(results, "full", "ssim")
    assert found is not None
    assert np.mean(full) == pytest.approx(found.value, abs=1e-5)
    assert (run / "reconstructions" / items[0]["file"]).is_file()


def test_the_same_seed_gives_the_same_bytes(
    finished: tuple[Path, Path, list[Result]], config: EvaluateConfig, tmp_path: Path
) -> None:
    run, data, _ = finished
    again = tmp_path / "run"
    shutil.copytree(run, again, ignore=shutil.ignore_patterns("report"))
    evaluate_run(again, Dataset.open(data), config)
    for name in ("results.json", "items.csv"):
        assert (again / "report" / name).read_bytes() == (run / "report" / name).read_bytes(), name


def test_several_samples_of_a_segment_count_as_their_mean(
    finished: tuple[Path, Path, list[Result]], config: EvaluateConfig, tmp_path: Path
) -> None:
    run, data, results = finished
    again = tmp_path / "run"
    (again / "reconstructions").mkdir(parents=True)
    shutil.copytree(run / "reconstructions" / "full", again / "reconstructions" / "full")
    path = again / "reconstructions" / "full" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["items"] += [{**item, "sample": 1} for item in manifest["items"]]
    path.write_text(json.dumps(manifest))
    doubled = evaluate_run(again, Dataset.open(data), config)
    for metric in TABLE_METRICS:
        assert find(doubled, "full", metric) == find(results, "full", metric)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("test selection", "'test' part chose the semantic checkpoint"),
        ("unknown selection", "the None part chose the semantic checkpoint"),
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
    finished: tuple[Path, Path, list[Result]], config: EvaluateConfig, tmp_path: Path, damage: str, message: str
) -> None:
    source, data, _ = finished
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


def test_the_terminal_table_is_aligned_and_narrow(finished: tuple[Path, Path, list[Result]]) -> None:
    lines = text_table(finished[2], TABLE_METRICS).splitlines()
    assert len(lines) <= len(ROWS) + 2
    assert max(map(len, lines)) <= 120
    assert [line for line in lines if line.startswith("class caption + saliency")]


# ------------------------------------------------------------------------------------------------ classes and EEG rows


def test_classes_are_found_by_wnid_then_by_name() -> None:
    wnids, names = ["n03773504", "n02389026"], ["missile", "sorrel"]
    assert classes_in_classifier({0: "n02389026", 1: "n03773504", 2: "x"}, wnids, names).tolist() == [1, 0]
    labels = {0: "projectile, missile", 1: "sorrel", 2: "missile"}  # "missile" is the first word of label 2 only
    assert classes_in_classifier(labels, wnids, names).tolist() == [2, 1]
    with pytest.raises(UserError, match=r"missile \(n03773504, 0 matches\)"):
        classes_in_classifier({0: "sorrel", 1: "iron"}, wnids, names)
    with pytest.raises(UserError, match=r"missile \(no WordNet id, 0 matches\)"):
        classes_in_classifier({0: "sorrel", 1: "iron"}, ["", "n02389026"], names)
    imagenet = {index: f"label {index}" for index in range(1000)} | {5: "missile", 9: "sorrel"}
    with pytest.raises(UserError, match="order of WordNet ids"):  # sorrel's id comes first, its label here does not
        classes_in_classifier(imagenet, wnids, names)


def test_removing_the_trend_agrees_with_a_least_squares_fit() -> None:
    eeg = np.random.default_rng(0).normal(size=(3, 4, 50)).cumsum(axis=2)
    mean, slope, residual = segment_features.remove_trend(eeg)
    time = np.linspace(-0.5, 0.5, 50)
    expected = np.polyfit(time, eeg.reshape(12, 50).T, 1)
    np.testing.assert_allclose(slope.ravel(), expected[0], rtol=1e-5)
    np.testing.assert_allclose(mean.ravel(), expected[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(residual.mean(axis=2), 0, atol=1e-6)
    assert segment_features.bin_means(eeg, 7).shape == (3, 28)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (150, 120)])
def test_principal_components_agree_with_scikit_learn(shape: tuple[int, int]) -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    train, test = rng.normal(size=shape), rng.normal(size=(5, shape[1]))
    scaler = StandardScaler().fit(train)
    reference = PCA(min(100, shape[0] - 1, shape[1]), svd_solver="full").fit(scaler.transform(train))
    for ours, part in zip(segment_features.principal_components(train, test), (train, test), strict=True):
        theirs = reference.transform(scaler.transform(part))
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)  # components have no sign


def test_nearest_in_time_knows_blocks_and_nothing_else() -> None:
    blocks, orders = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    subjects, is_test = np.ones(20, dtype=int), orders == 2
    by_block = eeg_rows.nearest_in_time_predictions(blocks, subjects, blocks, orders, is_test)
    assert by_block is not None
    np.testing.assert_array_equal(by_block, blocks[is_test])
    # The block before ends two places earlier; the next segment of the own block that is trained on comes two later.
    first, trained = orders == 0, orders != 1
    by_block = eeg_rows.nearest_in_time_predictions(*(v[trained] for v in (blocks, subjects, blocks, orders, first)))
    np.testing.assert_array_equal(by_block, np.arange(5))
    assert eeg_rows.nearest_in_time_predictions(blocks, subjects, np.full(20, -1), orders, is_test) is None


def test_a_class_with_one_training_segment_is_decoded_without_a_word() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [1, 10, 10])
    labels, is_test = np.concatenate([labels, [0, 1, 2]]), np.arange(24) >= 21
    features = 8 * np.eye(3)[labels] + rng.standard_normal((24, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (predicted,) = eeg_rows.lda_predictions(features, [labels], np.ones(24, dtype=int), is_test)
    assert predicted.tolist() == [0, 1, 2]


def test_shuffling_keeps_the_test_part_and_every_subjects_labels() -> None:
    labels, subjects = np.tile(np.arange(5), 12), np.repeat([1, 2, 3], 20)
    is_test = np.arange(60) % 4 == 0
    shuffled = eeg_rows.shuffled_within_subjects(labels, subjects, is_test, seed=0)
    np.testing.assert_array_equal(shuffled[is_test], labels[is_test])
    for subject in (1, 2, 3):
        chosen = ~is_test & (subjects == subject)
        assert sorted(shuffled[chosen]) == sorted(labels[chosen])
        assert (shuffled[chosen] != labels[chosen]).any()


@pytest.mark.parametrize(
    ("signal", "drift", "block_design", "heading"),
    [
        (1.0, 0.0, False, "Drift is ruled out by the design"),
        (1.0, 0.0, True, "Slow drift explains little"),
        (0.0, 3.0, True, "Most of this could be slow drift"),
    ],
)
def test_the_verdict_on_drift_in_studies_of_known_truth(
    tmp_path: Path, signal: float, drift: float, block_design: bool, heading: str
) -> None:
    simulated_run.write_dataset(tmp_path / "data", num_images=12, signal=signal, drift=drift, block_design=block_design)
    dataset = Dataset.open(tmp_path / "data")
    results = eeg_rows.eeg_results(
        dataset, eeg_rows.summarise_segments(dataset, encoder=None), num_resamples=300, seed=0
    )
    linear = find(results, "linear_decoder", "accuracy")
    assert linear is not None
    assert linear.value > 0.5  # the plain figure is high in all three, whatever its source
    model = Result(**{**vars(linear), "row": "full"})
    chance = Result(row="chance", metric="accuracy", value=1 / 6, low=None, high=None, n=1, definition="guessing")
    assert heading in [sentence["heading"] for sentence in verdict([*results, model, chance])]
    permuted = find(results, "permuted_labels", "accuracy")
    assert permuted is not None
    assert permuted.value < 0.4
    if signal == 0.0:
        detrended = find(results, "linear_decoder_detrended", "accuracy")
        assert detrended is not None
        assert detrended.value < 0.35


def test_the_docs_name_every_row_and_metric() -> None:
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [name for name in (*ROWS, *DEFINITIONS) if f"`{name}`" not in text] == []


def test_control_runs_become_rows_and_what_is_absent_has_a_reason(
    finished: tuple[Path, Path, list[Result]], config: EvaluateConfig, tmp_path: Path
) -> None:
    run, data, _ = finished
    copy, other = tmp_path / "run", tmp_path / "run" / "controls" / "without-subject-1"
    shutil.copytree(run, copy)
    shutil.copytree(run / "contrastive", other / "contrastive")
    runs = ControlRuns(without_subject={1: other}, absent={"phantom_full": "the order of recording is unknown"})
    results = evaluate_run(copy, Dataset.open(data), config, control_runs=runs)
    found = find(results, "eeg_classifier_unseen_subject", "accuracy")
    assert found is not None
    assert found.n == 12  # one of two subjects
    assert find(results, "phantom_full", "accuracy") is None
    sentence = "Not measured: phantom, whole pipeline, the order of recording is unknown."
    assert sentence in (copy / "report" / "table.txt").read_text()
    page = write_report(copy, Dataset.open(data))
    assert sentence in page.read_text()
    assert sentence in (copy / "report" / "report.md").read_text()

    (other / "contrastive" / "environment.json").write_text(json.dumps([{"selection_split": "test"}]))
    with pytest.raises(UserError, match=r"without-subject-1.*would not be honest"):
        evaluate_run(copy, Dataset.open(data), config, control_runs=runs)
