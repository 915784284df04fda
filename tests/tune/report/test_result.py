"""The result of a search, read from its records."""

import dataclasses
from pathlib import Path

import pytest
from recorded_search import confirmation_records, margin_records, margin_search, pareto_records, pareto_search, store

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.records import SearchFolder, add_line
from neuroimagen.tune.report.result import cost, final_values, ranked, read_result, sentence


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return SearchFolder(tmp_path / "out")


def test_a_result_has_best_trial_comparison_order_and_cost(folder: SearchFolder) -> None:
    store(folder, margin_search(), [*margin_records(), *confirmation_records([0.82, 0.8], [0.71, 0.7])])
    result = read_result(folder, margin_search(), Recipe(), num_stimuli=400)
    assert (result.best.name, result.objective) == ("trials/0004", "knn_accuracy")
    assert "15 nearest training segments" in result.objective_text
    assert result.best_values == {"contrastive.margin": 0.9, "contrastive.distance": "cosine"}
    assert result.front == []
    assert sum(result.importance.values()) == pytest.approx(1.0)
    names = [record.name[-1] for record in ranked(result)]
    assert names == ["4", "3", "6", "1", "7", "0", "5", "2", "8", "9"]  # finished, stopped, failed
    found = cost(result)
    assert found == {"trials": 10, "steps_of_search": 6 * 9 + 3 * 3, "steps_of_confirmation": 0, "worker_seconds": 0.0}
    (comparison,) = result.comparisons
    assert sentence(comparison).startswith("knn_accuracy 0.8100 [0.6772, 0.9428] against 0.7050 [0.6274, 0.7826] of")
    assert "difference +0.1050 [+0.0184, +0.1916]: better than the default." in sentence(comparison)


def test_a_pareto_search_has_a_front(folder: SearchFolder) -> None:
    store(folder, pareto_search(), pareto_records())
    result = read_result(folder, pareto_search(), Recipe(), num_stimuli=400)
    assert [record.name for record in result.front] == ["trials/0002", "trials/0001", "trials/0000"]
    assert result.best.name == "trials/0001"
    assert result.objective_text == "the Pareto front of ssim and two_way_clip, on 96 validation segments"
    assert cost(result)["images_of_search"] == 4 * 96


@pytest.mark.parametrize("file", ["copies.jsonl", "forks.jsonl"])
def test_population_based_training_ends_with_another_setting(folder: SearchFolder, file: str) -> None:
    record = margin_records()[0]
    assert final_values(folder, record) == record.values
    for margin in (0.5, 0.7):
        copy = {"from": "trials/0001", "run": 0, "step": 3, "values": {**record.values, "contrastive.margin": margin}}
        add_line(folder.trial(record.name).path / file, copy)
    assert final_values(folder, record) == {**record.values, "contrastive.margin": 0.7}


def test_without_a_finished_trial_there_is_no_result(folder: SearchFolder) -> None:
    stopped = [dataclasses.replace(record, state="stopped") for record in margin_records()[:2]]
    store(folder, margin_search(), stopped)
    with pytest.raises(UserError, match="no trial ran to its end"):
        read_result(folder, margin_search(), Recipe(), num_stimuli=400)
