"""`neuroimagen evaluate` and `report` as a user types them."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import simulated_run
from small_study import RECIPE, write_latents, write_study
from train_here import train_in_process

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main, parse
from neuroimagen.launch.jobs import commands
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.retraining import controls


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    scenes = simulated_run.write_dataset(folder / "data")
    return simulated_run.write_run(folder / "run", folder / "data", scenes)


def test_evaluate_then_report(run: Path, tiny_diffusion_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--run", str(run)]) == 1
    assert "has not been evaluated" in capsys.readouterr().err

    judges = [f"evaluate.{name}={tiny_diffusion_folder / name}" for name in ("classifier", "clip")]
    assert main(["evaluate", "--run", str(run), "--cpu", "--set", *judges, "evaluate.num_resamples=100"]) == 0
    printed = capsys.readouterr().out
    assert "full model" in printed
    assert "Drift" in printed or "drift" in printed
    assert str(run / "report" / "results.json") in printed

    assert main(["report", "--run", str(run)]) == 0
    assert str(run / "report" / "report.html") in capsys.readouterr().out
    assert (run / "report" / "grid.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "evaluate.n_ways=3"], "evaluate.n_way"),
        (["--set", "evaluate.n_way=1"], "at least 2"),
        (["--set", "evaluate.things.clip=no/such/folder"], "Set evaluate.preset: things"),
        (
            ["--controls", "--set", "evaluate.preset=things", "evaluate.things.swav=no/such/folder"],
            "evaluate.things.swav: there is no folder no/such/folder",
        ),
        (["--set", "evaluate.preset=thing"], "evaluate.preset"),
        (["--set", "evaluate.classifier=no/such/folder"], "no/such/folder"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_clear_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["evaluate", "--run", str(run), *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert "Traceback" not in error


def test_a_run_selected_on_the_test_split_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "saliency" / "environment.json").write_text(json.dumps([{"selection_split": "test"}]))
    assert main(["evaluate", "--run", str(other)]) == 1
    assert "would be biased" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--cpu"]])
def test_the_controls_are_made_on_the_cpu_where_that_was_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    asked: list[bool] = []

    def make_control_runs(*args: object, cpu: bool, **options: object) -> None:
        asked.append(cpu)
        raise UserError("enough seen")

    monkeypatch.setattr(controls, "make_control_runs", make_control_runs)
    assert main(["evaluate", "--run", str(run), "--controls", *options]) == 1
    assert asked == [bool(options)]


def test_leave_one_subject_out_of_an_alignment_run_is_one_command(
    one_rank: None,
    tiny_diffusion_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`evaluate --controls` of a run that has nothing but the alignment stage, on data whose order is known."""
    data, recipe, run = write_study(tmp_path / "data", block_size=8), tmp_path / "recipe.yaml", tmp_path / "run"
    write_latents(data, tiny_diffusion_folder, kinds=("image",))
    recipe.write_text(RECIPE.format(data=data, model=tiny_diffusion_folder), encoding="utf-8")
    train_in_process(recipe, "alignment", run)

    def train_step(command: list[str], *, check: bool) -> subprocess.CompletedProcess[bytes]:
        args = parse(command[3:])  # without Python, -m and the module
        train_in_process(args.config, args.stages[0], args.run, args.set, resume=args.resume)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(commands, "subprocess", SimpleNamespace(run=train_step))
    words = ["evaluate", "--run", str(run), "--controls", "--cpu", "--set", "evaluate.num_resamples=100"]
    assert main(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "alignment, unseen subject" in printed
    for subject, other in ((1, 2), (2, 1)):
        made = run / "controls" / f"without-subject-{subject}" / "alignment"
        assert (made / "export" / "model.safetensors").is_file()
        assert load_recipe(made / "config.yaml").data.subjects == (other,)
    results = json.loads((run / "report" / "results.json").read_text())
    figures = {item["metric"]: item for item in results if item["condition"] == "alignment_unseen_subject"}
    dataset = Dataset.open(data)
    assert figures["embedding_top1"]["n"] == len(dataset.rows("test"))
    num_stimuli = len(set(dataset.index.stimulus[dataset.rows("test")].tolist()))
    assert 1 <= figures["embedding_mean_rank"]["value"] <= num_stimuli
    assert "the run has no trained contrastive, saliency, semantic" in printed  # no drift surrogate, and it is said
