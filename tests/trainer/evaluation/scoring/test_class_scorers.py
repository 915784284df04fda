"""What scores images over classes: a folder, CLIP on captions, a linear probe, nothing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import simulated_run
from simulated_run import Finished
from sklearn.linear_model import LogisticRegression

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.results import find
from neuroimagen.trainer.evaluation.scoring.class_scorers import ZeroShotClassifier, check_classifier
from neuroimagen.trainer.evaluation.scoring.feature_networks import ClipModel
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig, load_scoring
from neuroimagen.trainer.report.page import write_report

FEATURE_METRICS = {"two_way_classifier", "two_way_classifier_early", "two_way_classifier_late", "fid", "kid"}
SCORE_METRICS = {"accuracy", "accuracy_top5", "accuracy_own_verdict", "permutation_p", "inception_score"}


def own_classes(dataset: Dataset) -> Dataset:
    """The data set with classes that no classifier knows."""
    classes = tuple(
        dataclasses.replace(item, name=f"shape {number}", wnid="")
        for number, item in enumerate(dataset.metadata.classes)
    )
    dataset.metadata = dataclasses.replace(dataset.metadata, classes=classes)
    return dataset


@pytest.fixture(scope="module")
def unseen_classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and its data set, which nobody has evaluated."""
    folder = tmp_path_factory.mktemp("own")
    scenes = simulated_run.write_dataset(folder / "data")
    return simulated_run.write_run(folder / "run", folder / "data", scenes), folder / "data"


@pytest.mark.parametrize(
    ("classifier", "missing"),
    [
        ("none", FEATURE_METRICS | SCORE_METRICS),
        ("auto", FEATURE_METRICS | SCORE_METRICS),
        ("zero-shot", FEATURE_METRICS),
        ("linear-probe", FEATURE_METRICS),
    ],
)
def test_own_classes_are_evaluated_and_reported(
    unseen_classes: tuple[Path, Path], config: EvaluateConfig, classifier: str, missing: set[str]
) -> None:
    run, data = unseen_classes
    config = dataclasses.replace(config, classifier=classifier, num_resamples=100)
    results = evaluate_run(run, own_classes(Dataset.open(data)), config)
    of_images = {item.metric for item in results if item.condition == "full"}
    assert {"ssim", "pixcorr", "two_way_clip", "within_class_two_way", "retrieval_top1"} <= of_images
    assert not of_images & missing
    assert find(results, "linear_decoder", "accuracy") is not None  # what the EEG tells needs no image classifier
    accuracy = find(results, "full", "accuracy")
    assert (accuracy is None) == ("accuracy" in missing)
    if accuracy is not None:
        assert {"zero-shot": "on class captions", "linear-probe": "fitted on 18 training stimuli"}[
            classifier
        ] in accuracy.definition
    page = write_report(run, own_classes(Dataset.open(data))).read_text(encoding="utf-8")
    assert ("recognised as" in page) == ("accuracy" not in missing)


def test_a_linear_probe_is_logistic_regression_on_the_training_stimuli(
    finished: Finished, config: EvaluateConfig
) -> None:
    dataset = own_classes(Dataset.open(finished.data))
    scoring = load_scoring(
        dataclasses.replace(config, classifier="linear-probe"), dataset, subjects=None, size_px=32, device="cpu"
    )
    clip = ClipModel.from_folder(Path(config.clip))

    def embeddings(stimuli: np.ndarray) -> np.ndarray:
        found = clip.image_embeddings(dataset.stimuli.images(stimuli, 32)).astype(np.float64)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    trained = np.unique(dataset.index.stimulus[dataset.rows("train")])
    regression = LogisticRegression(max_iter=1000).fit(embeddings(trained), dataset.stimuli.labels[trained])
    expected = regression.predict_log_proba(embeddings(scoring.references.stimuli))
    assert scoring.references.classifier is not None
    np.testing.assert_allclose(scoring.references.classifier.scores, expected, atol=2e-3)


def test_zero_shot_scores_are_cosines_with_the_class_captions(finished: Finished, config: EvaluateConfig) -> None:
    dataset = Dataset.open(finished.data)
    clip = ClipModel.from_folder(Path(config.clip))
    images = dataset.stimuli.images(np.arange(5), 32)
    scorer = ZeroShotClassifier(clip, {0: "a red disc"}, ["disc", "square"])
    image = clip.image_embeddings(images).astype(np.float64)
    text = clip.text_embeddings(["a red disc", "square"]).astype(np.float64)  # a class without a caption: its name
    expected = image @ text.T / np.outer(np.linalg.norm(image, axis=1), np.linalg.norm(text, axis=1))
    np.testing.assert_allclose(scorer.describe(images).scores, 100 * expected, atol=1e-3)


def test_a_classifier_that_cannot_score_the_classes_is_refused_with_the_choices(
    finished: Finished, config: EvaluateConfig, tmp_path: Path
) -> None:
    dataset = own_classes(Dataset.open(finished.data))
    for classifier in (config.classifier, "bundled"):
        with pytest.raises(UserError, match=r"evaluate\.classifier: .*shape 0.*zero-shot.*linear-probe.*none"):
            check_classifier(classifier, dataset)
    with pytest.raises(UserError, match="there is no model folder"):
        check_classifier(str(tmp_path / "nothing"), dataset)
    for classifier in ("auto", "none", "zero-shot", "linear-probe"):
        check_classifier(classifier, dataset)
    # Zero-shot splits have test classes without a training stimulus.
    test = dataset.rows("test")
    dataset.index.label[test] = 5
    dataset.index.label[dataset.rows("train")] = 0
    dataset.stimuli.labels[np.unique(dataset.index.stimulus[dataset.rows("train")])] = 0
    with pytest.raises(UserError, match="a linear probe is fitted on training stimuli"):
        check_classifier("linear-probe", dataset)
