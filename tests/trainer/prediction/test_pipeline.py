"""The pipeline draws the images of `reconstruct`, or refuses; untrained networks."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from untrained_run import close, network

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.cli import main
from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import embed_rows
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.prediction.pipeline import Pipeline
from neuroimagen.trainer.prediction.result import PipelineResult


@pytest.fixture(scope="module")
def pipeline(trained) -> Pipeline:
    return Pipeline.from_pretrained(trained.run, device="cpu")


def _pixels(result: PipelineResult) -> np.ndarray:
    return np.stack([np.asarray(image) for image in result.images])


def _test_rows(trained) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the test split, their EEG and their subjects."""
    dataset = trained.dataset
    rows = dataset.rows("test")
    return rows, np.stack([dataset.eeg(row) for row in rows]), dataset.index.subject[rows]


def test_the_images_are_those_of_reconstruct_bit_for_bit(trained, pipeline: Pipeline, tmp_path: Path) -> None:
    """Also from volts, with channels in another order and one too many, cut from longer epochs."""
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    conditions = ("full", "image_only", "saliency_only")
    command = ["reconstruct", "--run", str(run), "--cpu", "--conditions", *conditions]
    assert main([*command, "--set", "reconstruct.samples=2"]) == 0
    rows, eeg, subjects = _test_rows(trained)
    order = [3, 1, 5, 0, 2, 4]
    volts = np.concatenate([eeg[:, order], eeg[:, :1]], axis=1).astype(np.float64) * 1e-6
    longer = np.pad(volts, ((0, 0), (0, 0), (10, 5)))
    names = [pipeline.input.channel_names[place] for place in order]  # type: ignore[index]
    for condition in conditions:
        folder = run / "reconstructions" / condition
        items = json.loads((folder / "manifest.json").read_text())["items"]
        expected = np.stack([np.asarray(Image.open(folder / item["file"])) for item in items])
        same = pipeline(
            eeg, preprocessed=True, segments=rows, subject=subjects.tolist(), condition=condition, num_images=2
        )
        assert np.array_equal(_pixels(same), expected)
        other = pipeline(
            longer,
            sfreq=100,
            channel_names=[*names, "EOG"],
            unit="V",
            tmin=0.0,
            segments=rows.tolist(),
            condition=condition,
            num_images=2,
        )
        assert np.array_equal(_pixels(other), expected)
    assert len(np.unique(expected, axis=0)) == len(expected)  # the images do depend on segment and sample


def test_another_batch_changes_rounding_only_and_another_number_the_noise(trained, pipeline: Pipeline) -> None:
    rows, eeg, _ = _test_rows(trained)
    whole = _pixels(pipeline(eeg, preprocessed=True, segments=rows))
    alone = _pixels(pipeline(eeg[2:3], preprocessed=True, segments=rows[2:3]))
    assert close(alone[0], whole[2])
    assert not close(_pixels(pipeline(eeg[2:3], preprocessed=True))[0], whole[2])
    assert not close(_pixels(pipeline(eeg[2:3], preprocessed=True, segments=rows[2:3], seed=1))[0], whole[2])
    assert not close(_pixels(pipeline(eeg[2:3], preprocessed=True, segments=rows[2:3], steps=4))[0], whole[2])


def test_embeddings_and_saliency_maps(trained, pipeline: Pipeline) -> None:
    rows, eeg, _ = _test_rows(trained)
    result = pipeline(eeg, preprocessed=True, segments=rows, condition="image_only")
    model = AlignmentModel.from_pretrained(trained.run / "alignment" / "export")
    expected = embed_rows(model, trained.dataset, rows)
    assert np.array_equal(result.image_embeddings["image"], expected["image"])
    assert np.array_equal(result.centres["image"], model.centre("image").numpy())
    assert result.saliency_maps is not None
    only = pipeline(eeg, preprocessed=True, segments=rows, condition="saliency_only", batch_size=3)
    resized = [image.resize((32, 32), Image.Resampling.BILINEAR) for image in result.saliency_maps]
    assert [image.size for image in result.saliency_maps] == [(16, 16)] * len(rows)
    difference = np.abs(np.stack([np.asarray(each, dtype=float) for each in resized]) - _pixels(only))
    assert difference.max() <= 2  # two ways of resizing the same map


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sfreq": 200}, r"200 Hz, the run was trained on 100 Hz"),
        ({"channel_names": ["Fz", "Cz", "Pz", "Oz", "P7", "PO8"]}, "lacks 1 of the run's 6 channels: P8"),
        ({"unit": None}, "say the unit"),
        ({"tmin": 0.2}, r"lasts from 0\.2 to 0\.4 s after the onset; the run needs 0\.1 to 0\.3 s"),
        ({"subject": "pilot"}, "there is no subject 'pilot'"),
        ({"segments": [1, 1, 1, 1, 1, 1]}, "needs 6 different numbers"),
        ({"condition": "oracle_image"}, "oracle_image is drawn from the stimulus.*Choose one of full"),
        ({"condition": "ful"}, "Did you mean 'full'"),
        ({"semantic": "semantic_none", "condition": "semantic_only"}, "semantic_none/export does not exist"),
        ({"guidance": 0.5}, r"reconstruct\.guidance"),
        ({"stepz": 3}, "'stepz' is no setting of reconstruct"),
        ({"samples": 3}, "samples is not for new EEG; give num_images"),
    ],
)
def test_what_does_not_fit_is_refused(trained, pipeline: Pipeline, changes: dict, message: str) -> None:
    _, eeg, _ = _test_rows(trained)
    known = {"sfreq": 100, "channel_names": list(pipeline.input.channel_names or ()), "unit": "uV"}
    with pytest.raises(UserError, match=message):
        pipeline(eeg, **{**known, **changes})


def test_segments_of_another_length_and_none_are_refused(trained, pipeline: Pipeline) -> None:
    _, eeg, _ = _test_rows(trained)
    with pytest.raises(UserError, match="19 samples; the run's encoder was trained on 20"):
        pipeline(eeg[:, :, :-1], preprocessed=True)
    with pytest.raises(UserError, match="holds no segment"):
        pipeline(eeg[:0], preprocessed=True)


def test_unknown_subjects_where_networks_have_parts_of_each(trained, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    _, eeg, _ = _test_rows(trained)

    def with_layers(policy: str) -> Pipeline:
        encoder = encoder_config(
            feature_size=8, kernel_samples=5, stride_samples=2, subject_layers=True, unknown_subject=policy
        )
        settings = {**network(), "encoder": dataclasses.asdict(encoder), "subjects": [1, 2]}
        model = SemanticModel(encoder=settings, text_shape=(24, 32), hidden_size=8, head_dropout=0.0)
        model.save_pretrained(run / "semantic" / "export")
        return Pipeline.from_pretrained(run, condition="semantic_only", device="cpu")

    refusing = with_layers("error")
    with pytest.raises(UserError, match=r"semantic\), and nobody says whose EEG it is: give subject=.*one of \[1, 2\]"):
        refusing(eeg[:1], preprocessed=True)
    with pytest.raises(UserError, match=r"subjects \[5\] are new to it"):
        refusing(eeg[:1], preprocessed=True, subject=5)
    assert refusing(eeg[:1], preprocessed=True, subject=2).notes == ()
    averaging = with_layers("mean")
    assert "the mean of [1, 2] is used" in averaging(eeg[:1], preprocessed=True, subject=5).notes[0]


def test_conditions_of_a_run_with_one_stage(trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained.run / "config.yaml", run)
    with pytest.raises(UserError, match=r"cannot be drawn: .*Train a stage that images are drawn with first"):
        Pipeline.from_pretrained(run)
    shutil.copytree(trained.run / "alignment", run / "alignment")
    pipeline = Pipeline.from_pretrained(run, device="cpu")
    assert (pipeline.condition, pipeline.conditions()) == ("image_only", ["image_only"])
    _, eeg, _ = _test_rows(trained)
    result = pipeline(eeg[:1], preprocessed=True)
    assert result.saliency_maps is None
    assert set(result.image_embeddings) == {"image"}
