"""The command that trains a stage again."""

import json
from pathlib import Path

from control_steps import finish_stage, value_after

from neuroimagen.launch.cli import parse
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.retraining.commands import cpu_option, train_command
from neuroimagen.trainer.retraining.drift_surrogate import surrogate_steps


def test_each_stage_gets_the_ranks_of_its_newest_start(run: Path) -> None:
    finish_stage(run, "saliency", num_ranks=3)
    steps = surrogate_steps(run, run / "controls" / "drift_surrogate")
    assert [value_after(step, "--num-ranks") for step in steps[:-1]] == ["2", "3", "2"]
    (run / "semantic" / "environment.json").write_text(json.dumps([{"selection_split": "val"}]))
    assert value_after(surrogate_steps(run, run / "p")[2], "--num-ranks") == "1"


def test_the_command_is_one_that_the_command_line_takes(run: Path) -> None:
    words = train_command(run, "saliency", run / "again", data="a: b", settings=("seed=3",), cpu=True)
    args = parse(list(words))
    assert (args.stages, args.run, args.num_ranks) == (["saliency"], run / "again", 2)
    assert args.cpu
    assert args.resume
    recipe = load_recipe(args.config, args.set)
    assert (recipe.data.path, recipe.seed) == ("a: b", 3)  # a path that YAML would read as a mapping
    assert cpu_option(False) == ()
