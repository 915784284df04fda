"""Ensembles: which networks are trained, predictions by networks that have not seen the segment, the export."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.eeg_conditions import classifier_prediction, is_cross_validated, summarise_segments
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.pretrained import load_exported
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.runs.run_folder import StageFolder, open_stage_folder
from neuroimagen.trainer.training.ensemble import cross_validation_text, ensemble_members, train_ensemble
from neuroimagen.trainer.training.loop import Stopped, StopRequest

ENSEMBLE = "classifier.ensemble={folds: 2, encoders: [linear, temporal_spatial]}"
SHORT = ("classifier.steps=40", "classifier.validate_every=20", "classifier.batch_size=16", "classifier.select=last")


def test_members_are_every_encoder_seed_and_fold(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, [ENSEMBLE, "classifier.ensemble.seeds=2", "seed=5"])
    members = ensemble_members(recipe, "classifier")
    assert [member.key for member in members][:5] == [
        *("linear-seed0-fold0", "linear-seed0-fold1", "linear-seed1-fold0", "linear-seed1-fold1"),
        "temporal_spatial-seed0-fold0",
    ]
    assert len(members) == 8
    assert {member.recipe.data.validation_fold for member in members} == {(0, 2), (1, 2)}
    assert len({member.recipe.seed for member in members}) == 2
    assert members[0].recipe.seed == 5
    # The recipe's own section for its own kind of encoder, the defaults for others.
    assert members[-1].recipe.encoder == recipe.encoder
    assert members[0].recipe.encoder.kind == "linear"
    assert not any(ensemble_members(member.recipe, "classifier") for member in members)
    assert ensemble_members(load_recipe(recipe_path), "classifier") == []
    with pytest.raises(UserError, match="no encoder 'linaer'"):
        ensemble_members(load_recipe(recipe_path, ["classifier.ensemble.encoders=[linaer]"]), "classifier")


@pytest.mark.parametrize("override", ["classifier.ensemble.folds=2", "classifier.ensemble.encoders=[linear]"])
def test_an_ensemble_begins_from_scratch(recipe_path: Path, override: str) -> None:
    """What it would start from may have seen the segments of every fold."""
    with pytest.raises(UserError, match="leave initialise_from at null"):
        load_recipe(recipe_path, [override, "classifier.initialise_from=contrastive"])


@pytest.mark.usefixtures("one_rank")
def test_it_is_stopped_resumed_exported_and_evaluated(recipe_path: Path, study_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path, [ENSEMBLE, *SHORT])
    folder = StageFolder(tmp_path / "run", "classifier")
    folder.path.mkdir(parents=True)
    open_stage_folder(folder, recipe, num_ranks=1, resume=False)
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(Stopped):
        train_ensemble(recipe, "classifier", folder, device=torch.device("cpu"), stop=stop)
    assert not folder.is_finished
    train_ensemble(recipe, "classifier", folder, device=torch.device("cpu"), stop=StopRequest())

    dataset = Dataset.open(study_folder)
    rows = np.union1d(dataset.rows("train"), dataset.rows("val"))
    content = json.loads((folder.path / "cross-validation.json").read_text())
    assert [item["encoder"] for item in content["encoders"]] == ["linear", "temporal_spatial", "all"]
    assert content["by_stimulus"] is True
    assert all(item["n"] == len(rows) for item in content["encoders"])
    assert sum(item["weight"] for item in content["encoders"][:2]) == pytest.approx(1.0)
    assert content["encoders"][0]["accuracy"] > 0.4  # chance 0.25

    # Out of fold: a linear network's figure is that of its own fold.
    right = []
    for fold in range(2):
        model = ClassifierModel.from_pretrained(
            folder.path / "members" / f"linear-seed0-fold{fold}" / "classifier" / "export"
        )
        member = ensemble_members(recipe, "classifier")[fold]
        own = rows_of_fold(dataset, member.recipe.data.validation_fold)
        eeg = torch.stack([torch.from_numpy(dataset.eeg(int(row))) for row in own])
        right += (model(eeg).argmax(1).numpy() == dataset.index.label[own]).tolist()
    assert content["encoders"][0]["accuracy"] == pytest.approx(np.mean(right))

    assert "weight" in cross_validation_text(folder.path)
    assert is_cross_validated(folder.run)
    assert not is_cross_validated(folder.path / "members" / "linear-seed0-fold0")
    summaries = summarise_segments(dataset, encoder=None, with_validation=True)
    assert np.array_equal(summaries.rows[~summaries.is_test], rows)
    test = dataset.rows("test")
    prediction = classifier_prediction(folder.run, dataset, test)
    assert prediction is not None
    assert "4 networks" in prediction.text
    eeg = torch.stack([torch.from_numpy(dataset.eeg(int(row))) for row in test])
    assert np.array_equal(prediction.predicted, load_exported(folder.export)(eeg).argmax(1).numpy())


def rows_of_fold(dataset: Dataset, fold: tuple[int, int] | None) -> np.ndarray:
    from neuroimagen.trainer.batches.folds import folds_of_rows, rows_of_folds

    assert fold is not None
    rows = rows_of_folds(dataset, None)
    return rows[folds_of_rows(dataset, rows, fold[1]) == fold[0]]


def test_a_changed_recipe_does_not_reuse_members(recipe_path: Path) -> None:
    """Member folders are named by what they are; what else they were trained with is in the members' own recipes."""
    recipe = load_recipe(recipe_path, [ENSEMBLE])
    other = dataclasses.replace(recipe, seed=recipe.seed + 1)
    pairs = zip(ensemble_members(recipe, "classifier"), ensemble_members(other, "classifier"), strict=True)
    assert all(first.recipe != second.recipe for first, second in pairs)
