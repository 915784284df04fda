"""The files of a finished search: a recipe that loads, results as data, a table and a page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded_search import confirmation_records, margin_records, margin_search, pareto_records, pareto_search, store

from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures
from neuroimagen.tune.config import search_of
from neuroimagen.tune.records import SearchFolder, TrialRecord
from neuroimagen.tune.report.write import write_result


def test_the_result_of_a_margin_search_is_a_recipe_with_its_origin(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "out")
    store(folder, margin_search(), [*margin_records(), *confirmation_records([0.81, 0.8, 0.8], [0.51, 0.5, 0.5])])
    write_result(folder, margin_search(), Recipe(), num_stimuli=400)
    recipe = load_recipe(folder.best)
    assert (recipe.stages["contrastive"].margin, recipe.stages["contrastive"].distance) == (0.9, "cosine")
    text = folder.best.read_text()
    lines = text.splitlines()
    assert lines[0].startswith("# best.yaml holds the setting that the search found: with new seeds it was better")
    assert lines[1] == "# Found by `neuroimagen tune margin`: margin 0.9, distance cosine."
    assert load_recipe(folder.found) == recipe
    assert "# knn_accuracy 0.8000 on the validation split (trials/0004)." in text
    assert "# With 3 new seeds: knn_accuracy 0.8033" in text
    assert "# With 3 new seeds" in folder.page.read_text()  # the page quotes best.yaml
    assert folder.table.read_text().splitlines()[2].split()[0] == "0004"
    assert len(folder.csv.read_text().splitlines()) == 1 + 10 + 6
    tree = json.loads(folder.results.read_text())
    assert tree["best"]["trial"] == "trials/0004"
    assert tree["comparisons"][0]["verdict"] == "better than the default"
    assert tree["best_yaml"]["holds"] == "best"
    assert len(tree["trials"]) == 16
    assert tree["environment"]["packages"]["ray"]


def test_text_that_utf8_does_not_have_is_replaced(tmp_path: Path) -> None:
    """A trial's file may hold half of a surrogate pair, as JSON can write it."""
    folder = SearchFolder(tmp_path / "out")
    first, *others = margin_records()
    odd = replace(first, message="a\ud800b", figures={**first.figures, "odd\udc80": 1.0})
    store(folder, margin_search(), [odd, *others])
    write_result(folder, margin_search(), Recipe(), num_stimuli=400)
    for path in (folder.results, folder.csv):
        assert "odd?" in path.read_text(encoding="utf-8")
        assert "a?b" in path.read_text(encoding="utf-8")


def test_the_condition_that_was_found_is_the_headline_of_the_recipe(tmp_path: Path) -> None:
    space = {"condition": ["full", "image_only"], "reconstruct.guidance": {"low": 1.0, "high": 9.0}}
    search = search_of({"space": space, "run": "runs/a"}, "guidance", where="x")
    records = [
        TrialRecord(
            name=f"trials/{number:04d}",
            values={"condition": condition, "reconstruct.guidance": 2.0 + number},
            seed=0,
            state="finished",
            figures={"objective": 0.5 + number / 10},
            curve=((96, 0.5),),
        )
        for number, condition in enumerate(("full", "full", "image_only"))
    ]
    folder = SearchFolder(tmp_path / "out")
    store(folder, search, records)
    write_result(folder, search, Recipe(), num_stimuli=400)
    reconstruct = load_recipe(folder.found).reconstruct
    assert (reconstruct.choose.conditions, reconstruct.guidance) == (("image_only",), 4.0)
    assert "condition image_only, guidance 4" in folder.found.read_text()
    assert "image_only" in folder.page.read_text()


@pytest.mark.parametrize(
    ("best", "default", "words"),
    [
        ([0.3, 0.31, 0.3], [0.71, 0.7, 0.7], "with new seeds the found one was worse (knn_accuracy)"),
        ([0.7, 0.71, 0.7], [0.69, 0.7, 0.69], "with new seeds the found one was not shown to be better"),
    ],
)
def test_best_yaml_holds_the_default_where_the_found_setting_did_not_stand_its_confirmation(
    best: list[float], default: list[float], words: str, tmp_path: Path
) -> None:
    folder = SearchFolder(tmp_path / "out")
    store(folder, margin_search(), [*margin_records(), *confirmation_records(best, default)])
    write_result(folder, margin_search(), Recipe(), num_stimuli=400)
    assert load_recipe(folder.best) == load_recipe(folder.recipe)
    sentence = f"best.yaml holds the default setting: {words}."
    assert folder.best.read_text().startswith(f"# {sentence}\n")
    assert load_recipe(folder.found).stages["contrastive"].margin == 0.9
    assert sentence in folder.table.read_text()  # what the terminal shows
    assert sentence in folder.page.read_text()
    assert json.loads(folder.results.read_text())["best_yaml"]["holds"] == "default"


def test_figures_by_segment_of_the_confirmation_make_its_intervals(tmp_path: Path) -> None:
    """Two seeds with the same counts, compared by segment: the difference is 0, with an interval around it."""
    folder = SearchFolder(tmp_path / "out")
    confirmations = confirmation_records([0.5, 0.5], [0.5, 0.5])
    store(folder, margin_search(), [*margin_records(), *confirmations])
    rng = np.random.default_rng(0)
    for record in confirmations:
        rows = np.arange(300)
        hits = rng.permutation(np.repeat([0.0, 1.0], 150))
        folder.trial(record.name).path.mkdir(parents=True, exist_ok=True)
        figures = SegmentFigures(rows=rows, stimuli=rows // 2, values={"knn_accuracy": hits})
        figures.write(folder.trial(record.name).segment_figures)
    result = write_result(folder, margin_search(), Recipe(), num_stimuli=400)
    (comparison,) = result.comparisons
    assert (comparison.by_segment, comparison.num_stimuli) == (True, 150)
    low, high = comparison.difference.low, comparison.difference.high
    assert low is not None
    assert high is not None
    assert low < -0.05 < 0.05 < high
    assert "paired by segment" in folder.page.read_text()


def test_the_result_of_a_pareto_search_has_its_front(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "out")
    store(folder, pareto_search(), pareto_records())
    write_result(folder, pareto_search(), Recipe(), num_stimuli=400)
    tree = json.loads(folder.results.read_text())
    assert tree["pareto_front"] == ["trials/0002", "trials/0001", "trials/0000"]
    # There were no runs with new seeds, so that what was found is what there is.
    assert load_recipe(folder.best).reconstruct.guidance == load_recipe(folder.found).reconstruct.guidance == 2.0
    assert "not confirmed" in folder.best.read_text().splitlines()[0]
