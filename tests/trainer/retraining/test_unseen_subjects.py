"""Runs without a subject: what they are trained on, and why there is none."""

import shutil
from pathlib import Path

from control_steps import finish_stage, value_after

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.retraining.unseen_subjects import steps_without_subject, why_none_without_subject


def test_the_encoder_is_trained_on_all_subjects_but_one(run: Path) -> None:
    dataset = Dataset.open(run.parent / "data")
    assert why_none_without_subject(run, dataset) is None
    (step,) = steps_without_subject(run, dataset, 1)
    assert step[:2] == ("train", "contrastive")
    assert value_after(step, "--run") == str(run / "controls" / "without-subject-1")
    settings = step[step.index("--set") + 1 : step.index("--num-ranks")]
    recipe = load_recipe(run / "config.yaml", settings)
    assert recipe.data.subjects == (2,)
    assert recipe.data.path == str(dataset.folder)
    assert value_after(step, "--num-ranks") == "2"
    assert step[-1] == "--resume"


def test_what_the_encoder_starts_from_has_not_seen_the_subject_either(run: Path) -> None:
    recipe = run / "config.yaml"
    dataset = Dataset.open(run.parent / "data")
    plain = recipe.read_text()
    recipe.write_text(plain + "  initialise_from: masked\n")
    assert why_none_without_subject(run, dataset) == "the run has no trained masked stage"
    finish_stage(run, "masked")
    assert why_none_without_subject(run, dataset) is None
    assert [step[1] for step in steps_without_subject(run, dataset, 2)] == ["masked", "contrastive"]
    recipe.write_text(plain + "  initialise_from: runs/other/contrastive\n")
    reason = why_none_without_subject(run, dataset)
    assert reason == "the encoder starts from runs/other/contrastive, which may have seen every subject"


def test_why_there_is_no_run_without_a_subject(run: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(run.parent / "data")
    assert why_none_without_subject(run, dataset, subjects=(2,)) == "there is one subject only"
    recipe = run / "config.yaml"
    recipe.write_text(recipe.read_text().replace("num_classes: 6", "num_classes: 7"))
    reason = why_none_without_subject(run, dataset)
    assert reason is not None
    assert "without subject 1 there are no batches to train on: 7 classes per batch were asked for" in reason
    shutil.rmtree(run / "contrastive" / "export")
    assert why_none_without_subject(run, dataset) == (
        "the run has neither a trained contrastive stage nor an alignment stage"
    )
