"""Weights & Biases by choice, against a stand-in that keeps what it is told."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs.train import check_inputs
from neuroimagen.trainer.recipe.recipe import load_recipe

Train = Callable[..., Path]
STAND_IN = """
import json, os, pathlib

_FILE = pathlib.Path(__file__).with_name("said.jsonl")

def _say(what, content):
    with _FILE.open("a") as file:
        file.write(json.dumps([what, content], default=str) + "\\n")

class Image:
    def __init__(self, pixels):
        self.pixels = pixels
    def __str__(self):
        return f"image {self.pixels.shape}"

class Run:
    def define_metric(self, name, step_metric):
        _say("define", [name, step_metric])
    def log(self, figures):
        _say("log", figures)
    def finish(self):
        _say("finish", None)

def init(**settings):
    if os.environ.get("WANDB_MODE") != "offline":
        raise RuntimeError("api_key not configured (no-tty)")
    _say("init", settings)
    return Run()
"""
ASKED = "log.wandb=eeg"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """What the stand-in has been told so far, as [what, content]."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")

    def read() -> list[Any]:
        path = folder / "said.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    return read


def test_it_gets_every_figure_and_picture(
    said: Callable[[], list[Any]], train_here: Train, recipe_path: Path, tmp_path: Path
) -> None:
    common = ("saliency.initialise_from=null", "saliency.sample_every=2", "saliency.num_samples=2")
    plain = train_here(recipe_path, "saliency", tmp_path / "plain", *common)
    assert "wandb" not in sys.modules  # imported only when asked
    assert not said()

    stage = train_here(recipe_path, "saliency", tmp_path / "run", *common, ASKED)
    (first, settings), *others = said()
    assert first == "init"
    assert (settings["project"], settings["name"], settings["dir"]) == ("eeg", "run/saliency", str(stage))
    assert settings["config"]["saliency"]["steps"] == 4
    assert "mode" not in settings  # WANDB_MODE decides
    assert others[0] == ["define", ["*", "step"]]
    assert others[-1] == ["finish", None]
    logged = [content for what, content in others if what == "log"]
    pictures = [content for content in logged if "samples" in content]
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert [content for content in logged if "samples" not in content] == lines
    assert pictures == [{"step": step, "samples": "image (34, 34, 3)"} for step in (2, 4)]
    export = "export/model.safetensors"
    assert (stage / export).read_bytes() == (plain / export).read_bytes()


def test_a_resume_goes_on_with_the_same_run_and_may_begin_one(
    said: Callable[[], list[Any]], train_here: Train, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroimagen.trainer.training import loop

    def stop_at(step: int) -> None:
        def stopping(*args: Any, **kwargs: Any) -> Any:
            if args[4] == step:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(loop, "train_step", stopping)

    real = loop.train_step
    common = ("classifier.checkpoint_every=4", "classifier.steps=14")
    stop_at(5)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe_path, "classifier", tmp_path / "run", *common)
    stop_at(9)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe_path, "classifier", tmp_path / "run", *common, ASKED, resume=True)
    assert load_recipe(tmp_path / "run" / "classifier" / "config.yaml").log.wandb == "eeg"  # what the ranks read
    monkeypatch.setattr(loop, "train_step", real)
    train_here(recipe_path, "classifier", tmp_path / "run", *common, ASKED, resume=True)
    starts = [content for what, content in said() if what == "init"]
    assert len(starts) == 2
    assert len({start["id"] for start in starts}) == 1
    assert {start["resume"] for start in starts} == {"allow"}


def test_what_is_missing_is_said_before_anything_starts(
    said: Callable[[], list[Any]],
    train_here: Train,
    recipe_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match=r"did not start: api_key not configured .*WANDB_MODE=offline"):
        train_here(recipe_path, "classifier", tmp_path / "run", ASKED)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"needs the package wandb\. Install it .*neuroimagen\[wandb\]"):
        check_inputs(load_recipe(recipe_path, [ASKED]), "classifier", tmp_path / "run", 1)
