"""What is opened of a run, and what is refused: a subject that is not new, other EEG, unknown classes."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from new_subject_study import NEW

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import ClassInfo, read_metadata
from neuroimagen.trainer.adaptation.calibration import subject_segments
from neuroimagen.trainer.adaptation.opening import Opened, labels_in, open_decoders, subject_number, why_not_identified
from neuroimagen.trainer.evaluation.eeg_conditions import eeg_predictions, load_encoder, summarise_segments
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.training.inputs import open_latents


def opened(run: Path, data: Path | None = None, *, subject: int = NEW, stages: Sequence[str] | None = None) -> Opened:
    recipe = load_recipe(run / "config.yaml")
    assert recipe.data.path is not None
    dataset = Dataset.open(data or recipe.data.path)
    return open_decoders(
        run,
        recipe,
        dataset,
        subject=subject,
        segments=subject_segments(dataset, subject),
        config=recipe.evaluate,
        open_latents=open_latents,
        stages=stages,
    )


def changed_copy(data: Path, out: Path, **metadata: Any) -> Path:
    """Another data set: a copy that describes itself otherwise."""
    shutil.copytree(data, out)
    path = out / "dataset.json"
    path.write_text(dataclasses.replace(read_metadata(path), **metadata).to_json())
    return out


def test_every_trained_stage_is_opened(untrained_run: Path) -> None:
    found = opened(untrained_run)
    assert set(found.decoders) == {"contrastive", "classifier", "alignment"}
    assert not found.absent
    assert not found.notes
    assert found.decoders["alignment"].chance["embedding_top1"] == pytest.approx(1 / 24)
    shutil.rmtree(untrained_run / "classifier")
    assert set(opened(untrained_run).decoders) == {"contrastive", "alignment"}
    assert set(opened(untrained_run, stages=["alignment"]).decoders) == {"alignment"}
    with pytest.raises(UserError, match=r"has no trained classifier; .*it has contrastive, alignment"):
        opened(untrained_run, stages=["classifier"])


def test_the_centroids_are_those_of_evaluate(untrained_run: Path, new_subject_data: Path) -> None:
    """Without adaptation, the class of a segment is what `eeg_classifier` of the evaluation says."""
    dataset = Dataset.open(new_subject_data)
    encoder = load_encoder(untrained_run)
    summaries = summarise_segments(dataset, encoder=encoder, subjects=(1, 2))
    (expected,) = [item for item in eeg_predictions(dataset, summaries, seed=0) if item.condition == "eeg_classifier"]
    network = opened(untrained_run).decoders["contrastive"].network
    test = summaries.rows[summaries.is_test]
    eeg = torch.from_numpy(np.stack([dataset.eeg(int(row)) for row in test]))
    with torch.no_grad():
        assert network(eeg).argmax(dim=1).tolist() == expected.predicted.tolist()


def test_a_subject_that_the_run_was_trained_with_is_refused(untrained_run: Path) -> None:
    with pytest.raises(UserError, match=r"contrastive was trained with subject 2.*data.subjects=\[1, 3\]"):
        opened(untrained_run, subject=2)
    (untrained_run / "contrastive" / "config.yaml").write_text(
        (untrained_run / "config.yaml").read_text().replace("subjects: [1, 2]", "subjects: [1]")
    )
    # The alignment stage knows the subject all the same; and what a stage starts from counts.
    with pytest.raises(UserError, match="classifier was trained with subject 2"):
        opened(untrained_run, subject=2)
    assert opened(untrained_run, subject=2, stages=["contrastive"])
    (untrained_run / "contrastive" / "config.yaml").write_text(
        (untrained_run / "contrastive" / "config.yaml")
        .read_text()
        .replace("steps: 60", "steps: 60, initialise_from: masked")
    )
    with pytest.raises(UserError, match="masked was trained with subject 2"):
        opened(untrained_run, subject=2, stages=["contrastive"])


def test_a_run_without_encoders_says_how_to_train_one(tmp_path: Path, untrained_run: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copy(untrained_run / "config.yaml", tmp_path / "empty")
    with pytest.raises(UserError, match=r"no encoder to adapt\. Train one: neuroimagen train contrastive"):
        opened(tmp_path / "empty")


def test_the_runs_data_set_is_needed(untrained_run: Path, new_subject_data: Path) -> None:
    text = (untrained_run / "config.yaml").read_text().replace(str(new_subject_data), "gone")
    (untrained_run / "config.yaml").write_text(text)
    with pytest.raises(
        UserError, match=r"the training split of the run's own data set is needed.*--set data\.path=DIR"
    ):
        opened(untrained_run, new_subject_data)


def test_another_data_set_is_taken_for_other_people(untrained_run: Path, other_data: Path) -> None:
    found = opened(untrained_run, other_data, subject=2)
    person, stimuli = found.notes
    assert "is taken for a person whom the run has not seen" in person
    trained = set(np.flatnonzero(np.arange(80) // 4 % 5 < 3))
    tested = set(np.flatnonzero((np.arange(80) // 4 + 2) % 5 == 4))
    assert stimuli.startswith(f"{len(trained & tested)} of the {len(tested)} test stimuli have the keys of stimuli")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sfreq": 200.0}, "200 Hz, not 100"),
        ({"preprocessing": {"unit": "volt"}}, "the unit is volt, not microvolt"),
        ({"channel_names": tuple(f"B{number}" for number in range(12))}, "channel 1 is B0, not A0"),
    ],
)
def test_other_eeg_is_refused_by_name(
    tmp_path: Path,
    untrained_run: Path,
    new_subject_data: Path,
    other_data: Path,
    change: dict[str, Any],
    message: str,
) -> None:
    names = tuple(f"A{number}" for number in range(12))
    said: dict[str, Any] = {"channel_names": names, "preprocessing": {"unit": "microvolt"}}
    own = changed_copy(new_subject_data, tmp_path / "own", **said)
    text = (untrained_run / "config.yaml").read_text().replace(str(new_subject_data), str(own))
    (untrained_run / "config.yaml").write_text(text)
    other = changed_copy(other_data, tmp_path / "other", **{**said, **change})
    with pytest.raises(UserError, match=f"has other EEG than .*{message}"):
        opened(untrained_run, other)


def test_other_steps_are_said(tmp_path: Path, untrained_run: Path, other_data: Path) -> None:
    other = changed_copy(other_data, tmp_path / "other", preprocessing={"detrend": True})
    found = opened(untrained_run, other)
    assert "the two data sets' preprocessing differs in detrend" in found.notes


def test_classes_are_found_by_id_or_name(tmp_path: Path, new_subject_data: Path) -> None:
    own = Dataset.open(new_subject_data)
    classes = tuple(ClassInfo(name=f"class {label}") for label in (2, 0, 3, 1))
    other = Dataset.open(changed_copy(new_subject_data, tmp_path / "other", classes=classes))
    assert labels_in(other, own).tolist() == [1, 3, 0, 2]
    assert labels_in(own, own).tolist() == [0, 1, 2, 3]


def test_unknown_classes_leave_retrieval(
    tmp_path: Path, untrained_run: Path, new_subject_data: Path, other_data: Path
) -> None:
    classes = tuple(ClassInfo(name=name) for name in ("class 0", "circle", "square", "class 1"))
    other = changed_copy(other_data, tmp_path / "other", classes=classes)
    found = opened(untrained_run, other)
    assert set(found.decoders) == {"alignment"}
    assert set(found.absent) == {"contrastive", "classifier"}
    assert "was not trained on 2 of the 4 test classes (circle, square)" in found.absent["contrastive"]
    with pytest.raises(UserError, match=r"contrastive: .*circle, square"):
        opened(untrained_run, other, stages=["contrastive"])
    dataset = Dataset.open(new_subject_data)
    assert why_not_identified(dataset, dataset.rows("test"), np.arange(4), untrained_run) is None


def test_a_subject_is_named_by_number_or_label(tmp_path: Path, new_subject_data: Path) -> None:
    dataset = Dataset.open(changed_copy(new_subject_data, tmp_path / "x", provenance={"subject_labels": {"ab": 2}}))
    assert (subject_number(dataset, "3"), subject_number(dataset, 1)) == (3, 1)
    assert subject_number(dataset, "sub-ab") == 2
    with pytest.raises(UsageError, match=r"--subject zz: .* has no such subject; it has ab"):
        subject_number(dataset, "zz")
