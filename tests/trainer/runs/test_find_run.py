"""A folder that is not a run is called so, by every command that takes one, and the runs near it are named."""

from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.cli import main
from neuroimagen.trainer.runs.find_run import require_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """runs/: two runs, one with a trained stage; a folder of something else."""
    folder = tmp_path / "runs"
    for name in ("first", "demo-long"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    stage = folder / "first" / "contrastive"
    (stage / "export").mkdir(parents=True)
    for name in ("config.yaml", "environment.json"):
        (stage / name).write_text("", encoding="utf-8")
    (folder / "data").mkdir()
    return folder


def refusal(folder: Path, *, recipe: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        require_run(folder, recipe=recipe)
    return str(caught.value)


def test_a_run_is_a_run(runs: Path) -> None:
    require_run(runs / "first")
    (runs / "first" / "config.yaml").unlink()
    require_run(runs / "first", recipe=False)  # its exports are there, the recipe comes from elsewhere


def test_what_is_no_run_is_said_with_the_runs_near_it(runs: Path) -> None:
    first, demo = runs / "first", runs / "demo-long"
    assert refusal(runs / "demo") == f"there is no run {runs / 'demo'}. Runs near it: {demo}, {first}."
    assert refusal(runs / "frist").endswith(f"Runs near it: {first}, {demo}.")
    assert refusal(runs) == f"{runs} is not a run: it holds no config.yaml. Runs near it: {demo}, {first}."
    assert refusal(runs / "data", recipe=False).startswith(f"{runs / 'data'} is not a run: ")
    assert refusal(first / "contrastive") == f"{first / 'contrastive'} is a stage of a run. Give the run: {first}."
    assert refusal(first / "contrastive" / "export").endswith(
        f"is not a run: it holds no config.yaml. Runs near it: {first}."
    )
    assert refusal(first / "nowhere").endswith(f"Runs near it: {first}.")
    assert refusal(first / "config.yaml").startswith(f"{first / 'config.yaml'} is a file, not the folder of a run.")
    assert refusal(runs.parent / "a" / "b") == (
        f"there is no run {runs.parent / 'a' / 'b'}. `neuroimagen train` makes one."
    )


def test_few_of_many_runs_are_named(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"sweep-{number:02d}").mkdir()
        (tmp_path / f"sweep-{number:02d}" / "config.yaml").touch()
    message = refusal(tmp_path / "sweep-4")
    assert message.count("sweep-") == 6
    assert "sweep-04" in message


def test_relative_names_are_given_back_as_they_came(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    assert refusal(Path("demo")).endswith("Runs near it: demo-long, first.")
    monkeypatch.chdir(runs / "data")
    assert refusal(Path()).endswith("Runs near it: ../demo-long, ../first.")


@pytest.mark.parametrize(
    "words",
    [
        "reconstruct --run RUN",
        "reconstruct --run RUN --config CONFIG",
        "evaluate --run RUN",
        "report --run RUN",
        "report RUN FIRST",
        "launch --num-ranks 1 -- reconstruct --cpu --run RUN",
        "tune guidance --config SEARCH --run RUN --out OUT",
    ],
)
@pytest.mark.parametrize("name", ["nowhere", "data"])
def test_every_command_says_so(runs: Path, words: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    search = Path(__file__).parents[3] / "launch" / "recipes" / "tune-guidance.yaml"
    places = {
        **{"RUN": runs / name, "FIRST": runs / "first", "OUT": runs / "out", "SEARCH": search},
        "CONFIG": runs / "first" / "config.yaml",
    }
    before = sorted(runs.rglob("*"))
    assert main([str(places.get(word, word)) for word in words.split()]) == 1
    error = capsys.readouterr().err
    assert ("there is no run" if name == "nowhere" else "data is not a run: ") in error
    assert str(runs / "demo-long") in error
    assert error.count("\n") == 1
    assert sorted(runs.rglob("*")) == before
