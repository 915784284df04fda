"""`neuroimagen tune`: what its options start; tests/tune runs whole searches."""

from pathlib import Path
from typing import Any

import pytest

from neuroimagen.launch.cli import main
from neuroimagen.tune import search as search_module

SPACE = "space: {contrastive.margin: [0.2, 1.0]}\n"


@pytest.fixture
def margin_file(tmp_path: Path, tiny_dataset_folder: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(f'seed: 3\ndata: {{path: "{tiny_dataset_folder}"}}\n')
    path = tmp_path / "search.yaml"
    path.write_text("recipe: recipe.yaml\nnum_trials: 4\n" + SPACE)
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The searches that the command starts: (search, recipe, folder, options); each leaves a table."""
    calls: list[tuple[Any, ...]] = []

    def run_search(search: Any, recipe: Any, folder: Any, **options: Any) -> None:
        calls.append((search, recipe, folder, options))
        folder.table.parent.mkdir(parents=True, exist_ok=True)
        folder.table.write_text("the table\n")

    monkeypatch.setattr(search_module, "run_search", run_search)
    return calls


def test_the_options_reach_the_search(
    margin_file: Path, started: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(margin_file), "--out", str(tmp_path / "out")]
    more = ["--trials", "9", "--resume", "--concurrent", "2", "--address", "auto", "--set", "contrastive.steps=7"]
    assert main(["tune", "margin", *words]) == 0
    assert main(["tune", "margin", *words, *more]) == 0
    (plain, plain_recipe, _, plain_options), (search, recipe, folder, options) = started
    assert (plain.num_trials, search.num_trials) == (4, 9)
    assert (plain_recipe.seed, recipe.stages["contrastive"].steps) == (3, 7)
    assert not plain_options["resume"]
    assert options == {"run": None, "resume": True, "place": search_module.Place(concurrent=2, address="auto")}
    printed = capsys.readouterr().out
    assert "the table" in printed
    assert f"report: {folder.page}" in printed
    assert f"recipe: {folder.best}" in printed


def test_a_guidance_search_takes_its_run_from_the_command_line_or_from_its_file(
    started: list[Any], tmp_path: Path, tiny_dataset_folder: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f'data: {{path: "{tiny_dataset_folder}"}}\n')
    path = tmp_path / "search.yaml"
    path.write_text("run: first\nspace: {reconstruct.guidance: [1.0, 4.0]}\n")
    words = ["tune", "guidance", "--config", str(path), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert main([*words, "--run", str(tmp_path / "second")]) == 0
    for (search, _, _, options), name in zip(started, ("first", "second"), strict=True):
        assert options["run"] == (tmp_path / name).resolve()
        assert search.run == str(options["run"])


def test_a_search_that_was_stopped_says_how_to_go_on(
    margin_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search_module, "run_search", stopped)
    assert main(["tune", "margin", "--config", str(margin_file), "--out", str(tmp_path / "out")]) == 130
    assert f"kept in {tmp_path / 'out'}. Continue with --resume." in capsys.readouterr().out


def test_mistakes_are_one_clear_line(
    margin_file: Path, started: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(margin_file), "--out", str(tmp_path / "out")]
    assert main(["tune", "margin", *words, "--set", "contrastive.margn=1"]) == 1
    assert "contrastive.margn" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["tune", "margins", *words])
    assert stop.value.code == 2
    assert not started
