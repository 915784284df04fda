"""The files of a finished search: a recipe that loads, results as data, a table and a page."""

import json
from pathlib import Path

from recorded_search import confirmation_records, margin_records, margin_search, pareto_records, pareto_search, store

from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.tune.records import SearchFolder
from neuroimagen.tune.report.write import write_result


def test_the_result_of_a_margin_search_is_a_recipe_with_its_origin(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "out")
    store(folder, margin_search(), [*margin_records(), *confirmation_records([0.81, 0.8], [0.71, 0.7])])
    write_result(folder, margin_search(), Recipe())
    recipe = load_recipe(folder.best)
    assert (recipe.stages["contrastive"].margin, recipe.stages["contrastive"].distance) == (0.9, "cosine")
    text = folder.best.read_text()
    assert text.startswith("# Found by `neuroimagen tune margin`: margin 0.9, distance cosine.\n")
    assert "# knn_accuracy 0.8000 on the validation split (trials/0004)." in text
    assert "# With 2 new seeds: knn_accuracy 0.8050" in text
    assert "# With 2 new seeds" in folder.page.read_text()  # the page quotes best.yaml
    assert folder.table.read_text().splitlines()[2].split()[0] == "0004"
    assert len(folder.csv.read_text().splitlines()) == 1 + 10 + 4
    tree = json.loads(folder.results.read_text())
    assert tree["best"]["trial"] == "trials/0004"
    assert tree["comparisons"][0]["verdict"] == "better than the default"
    assert len(tree["trials"]) == 14
    assert tree["environment"]["packages"]["ray"]


def test_the_result_of_a_pareto_search_has_its_front(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "out")
    store(folder, pareto_search(), pareto_records())
    write_result(folder, pareto_search(), Recipe())
    tree = json.loads(folder.results.read_text())
    assert tree["pareto_front"] == ["trials/0002", "trials/0001", "trials/0000"]
    assert load_recipe(folder.best).reconstruct.guidance == 2.0
