"""Searches with the real training command: two ranks per trial, a killed rank, no process left running."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from real_search import start, wait_for_silence, write_search
from small_study import write_latents

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.sealed import VARIABLE, sealed
from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.runs.rank_status import read_statuses
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures
from neuroimagen.tune.config import search_of
from neuroimagen.tune.records import SearchFolder, open_search, read_lines
from neuroimagen.tune.search import check_inputs
from neuroimagen.tune.trials.training import TrainingTrial, trial_recipe


def test_a_trial_s_recipe_is_the_default_its_values_and_a_checkpoint_at_every_validation(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 4\ncontrastive: {validate_every: 20, checkpoint_every: 500, keep_checkpoints: 2}\n")
    recipe = trial_recipe(path, {"contrastive.margin": 0.25}, stage="contrastive", seed=9, keep_checkpoints=8)
    assert (recipe.seed, recipe.stages["contrastive"].margin) == (9, 0.25)
    assert (recipe.stages["contrastive"].checkpoint_every, recipe.stages["contrastive"].keep_checkpoints) == (20, 8)
    assert trial_recipe(path, {}, stage="contrastive", seed=4).stages["contrastive"].keep_checkpoints == 2


@pytest.mark.slow
def test_a_trial_is_a_job_of_two_ranks(study: Path, tmp_path: Path) -> None:
    search = write_search(tmp_path, study, steps=4, margins=[0.5])
    out = tmp_path / "out"
    process = start(search, out)
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    (record,) = SearchFolder(out).records()
    assert (record.state, record.steps, [step for step, _ in record.curve]) == ("finished", 4, [2, 4])
    run = out / "trials" / "0000" / "run"
    assert [status.state for status in read_statuses(run / "contrastive" / "logs")] == ["done", "done"]
    (environment,) = json.loads((run / "contrastive" / "environment.json").read_text())
    assert environment["num_ranks"] == 2
    assert (run / "contrastive" / "export" / "config.json").is_file()
    assert load_recipe(out / "best.yaml").stages["contrastive"].margin == 0.5
    wait_for_silence(out)


@pytest.mark.slow
def test_an_alignment_search_compares_targets_and_confirms_by_segment(
    study: Path, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    """From its file to best.yaml by the real training command: targets that differ, their value, the confirmation."""
    data = tmp_path / "data"
    shutil.copytree(study, data)
    write_latents(data, tiny_diffusion_folder, kinds=("image", "pooled-detailed"))
    encoder = {"feature_size": 8, "spatial_filters": 4, "temporal_filters": 4, "kernel_samples": 5, "stride_samples": 2}
    alignment = {"batch_size": 12, "steps": 4, "validate_every": 2, "checkpoint_every": 500}
    recipe = {"seed": 5, "data": {"path": str(data)}, "model": {"path": str(tiny_diffusion_folder)}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "encoder": encoder, "alignment": alignment}))
    both = {"image": 1.0, "pooled-detailed": 0.5}
    search = {
        **{"recipe": "recipe.yaml", "sampler": "grid", "scheduler": "none", "confirm_seeds": 2},
        "space": {"alignment.targets": [{"image": 1.0}, both], "alignment.logit_scale": [10.0]},
    }
    path, out = tmp_path / "search.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(search))
    process = start(path, out, "alignment")
    said, _ = process.communicate(timeout=550)
    assert process.returncode == 0, said
    folder = SearchFolder(out)
    records = folder.records()
    assert [record.values["alignment.targets"] for record in records] == [{"image": 1.0}, both]
    for record in records:
        assert (record.state, record.steps, set(record.figures)) == ("finished", 4, {"mrr", "top1", "top5", "two_way"})
        metrics = read_lines(out / record.name / "run" / "alignment" / "metrics.jsonl")
        assert record.figures["mrr"] == max(line["val_mrr"] for line in metrics if "val_mrr" in line)
        trained = load_recipe(out / record.name / "run" / "alignment" / "config.yaml").stages["alignment"]
        assert trained.targets == record.values["alignment.targets"]
    confirmations = folder.records("confirm")
    assert [record.seed for record in confirmations] == [1005, 1006, 1005, 1006]
    for record in [*records, *confirmations]:
        found = SegmentFigures.read(folder.trial(record.name).segment_figures)
        assert found.means() == record.figures
    (comparison,) = json.loads((out / "results.json").read_text())["comparisons"]
    assert (comparison["objective"], comparison["by_segment"], comparison["num_stimuli"]) == ("mrr", True, 12)
    assert comparison["difference"]["low"] < comparison["difference"]["mean"] < comparison["difference"]["high"]
    best = max(records, key=lambda record: record.figures["mrr"])
    assert load_recipe(out / "found.yaml").stages["alignment"].targets == best.values["alignment.targets"]
    assert "train alignment --config" in (out / "report.html").read_text()
    assert "best.yaml holds the" in said
    wait_for_silence(out)


def test_targets_of_different_number_are_not_compared(study: Path, tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    """Twelve captions of classes are twelve targets of 48 stimuli: retrieval among them is easier."""
    data = tmp_path / "data"
    shutil.copytree(study, data)
    write_latents(data, tiny_diffusion_folder, kinds=("image", "pooled-class"))
    folder = SearchFolder(tmp_path / "out")
    folder.path.mkdir()
    recipe = {"data": {"path": str(data)}, "model": {"path": str(tiny_diffusion_folder)}}
    folder.recipe.write_text(yaml.safe_dump(recipe))
    space = {"alignment.targets": [{"image": 1.0}, {"pooled-class": 1.0}]}
    search = search_of({"recipe": "r", "space": space}, "alignment", where="x")
    with sealed("test"), pytest.raises(UserError, match=r"targets \(image 12, pooled-class 3\), so that the figures"):
        check_inputs(search, load_recipe(folder.recipe), folder)
    alike = {"alignment.targets": [{"image": 1.0}, {"image": 1.0, "pooled-class": 0.1}]}
    search = search_of({"recipe": "r", "space": alike}, "alignment", where="x")
    with sealed("test"):
        assert check_inputs(search, load_recipe(folder.recipe), folder) == 12


def test_a_copy_that_fails_ends_its_trial_and_the_worker_goes_on(tmp_path: Path) -> None:
    """A population's trial whose source has no checkpoint left: its error is the trial's, not the loss of a worker."""
    folder = SearchFolder(tmp_path / "out")
    search = search_of(
        {"recipe": "r", "space": {"contrastive.margin": [0.1, 0.2]}, "scheduler": "pbt", "sampler": "random"},
        "margin",
        where="x",
    )
    open_search(folder, search, Recipe(), resume=False)
    (folder.trial("trials/0001").path).mkdir(parents=True)
    trial = TrainingTrial.__new__(TrainingTrial)
    trial._folder, trial._search, trial._stage, trial._process = folder, search, search.stage, None
    trial._trial_info = SimpleNamespace(trial_id="a")
    trial._begin({"trial": "trials/0000", "seed": 0, "contrastive.margin": 0.1})
    trial.load_checkpoint({"trial": "trials/0001", "run": 0, "step": 3})
    result = trial.step()
    assert result["done"]
    assert "has no checkpoint to continue from" in result["failed"]
    assert read_lines(folder.trial("trials/0000").copies) == []
    trial._begin({"trial": "trials/0000", "seed": 0, "contrastive.margin": 0.1})
    assert trial._problem is None


@pytest.mark.slow
def test_a_killed_rank_s_trial_is_retried_and_a_search_killed_while_training_leaves_nothing(
    study: Path, tmp_path: Path
) -> None:
    search = write_search(tmp_path, study, steps=60, margins=[0.5])
    out = tmp_path / "out"
    process = start(search, out)
    logs = out / "trials" / "0000" / "run" / "contrastive" / "logs"
    checkpoints = logs.parent / "checkpoints"
    while not (checkpoints / "latest").is_file():
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.1)
    rank = read_statuses(logs)[1]
    variables = Path(f"/proc/{rank.pid}/environ").read_bytes().split(b"\0")
    assert f"{VARIABLE}=test".encode() in variables  # a rank can read what the search can read
    os.kill(rank.pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    (record,) = SearchFolder(out).records()
    assert (record.state, record.retries, record.steps) == ("finished", 1, 60)
    wait_for_silence(out)

    again = tmp_path / "again"
    process = start(search, again)
    logs = again / "trials" / "0000" / "run" / "contrastive" / "logs"
    while len(read_statuses(logs)) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    wait_for_silence(again)


@pytest.mark.slow
def test_a_population_of_real_runs_exchanges_checkpoints(study: Path, tmp_path: Path) -> None:
    space = {
        "contrastive.margin": {"low": 0.05, "high": 2.0, "log": True},
        "contrastive.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    }
    search = write_search(
        tmp_path,
        study,
        steps=12,
        margins=[],
        **{"space": space, "sampler": "random", "scheduler": "pbt", "num_trials": 4, "num_ranks": 1, "grace_steps": 4},
    )
    out = tmp_path / "out"
    process = start(search, out)
    said, _ = process.communicate(timeout=550)
    assert process.returncode == 0, said
    records = SearchFolder(out).records()
    assert {record.state for record in records} == {"finished"}
    assert all(record.steps == 12 for record in records)
    copies = list(out.glob("trials/*/copies.jsonl"))
    assert copies
    for path in copies:
        copy = json.loads(path.read_text().splitlines()[-1])
        newest = SearchFolder(out).trial(f"trials/{path.parent.name}").newest_run
        recipe = load_recipe(newest / "contrastive" / "config.yaml")
        assert recipe.stages["contrastive"].margin == copy["values"]["contrastive.margin"]
        assert (newest / "contrastive" / "export").is_dir()
    wait_for_silence(out)
