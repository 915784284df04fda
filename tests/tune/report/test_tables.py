"""The tables of a search: the order of trials, what is said about the comparison, and that CSV has all of it."""

import csv
import re
from pathlib import Path

import pytest
from recorded_search import confirmation_records, margin_records, margin_search, store

from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.records import SearchFolder, TrialRecord
from neuroimagen.tune.report.result import Result, read_result
from neuroimagen.tune.report.tables import text_table, write_csv


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return SearchFolder(tmp_path / "out")


def result_of(folder: SearchFolder, confirmations: list[TrialRecord]) -> Result:
    store(folder, margin_search(), [*margin_records(), *confirmations])
    return read_result(folder, margin_search(), Recipe(), num_stimuli=400)


def test_a_table_has_the_best_trials_first_and_the_comparison(folder: SearchFolder) -> None:
    result = result_of(folder, confirmation_records([0.81, 0.8], [0.71, 0.7]))
    lines = text_table(result).splitlines()
    assert lines[2].split()[:3] == ["0004", "0.8000", "finished"]
    assert "2 new seeds: knn_accuracy 0.8050 [" in lines[-3]
    assert lines[-1].startswith("best.yaml holds the setting that the search found: ")
    assert "… and 7 more in trials.csv" in text_table(result, num=3)


def test_no_share_is_shown_beyond_its_range(folder: SearchFolder) -> None:
    table = text_table(result_of(folder, confirmation_records([0.95, 0.9], [0.4, 0.1])))
    (line,) = [line for line in table.splitlines() if "new seeds:" in line]
    bounds = [float(bound) for bound in re.findall(r"[-+]?\d\.\d{4}(?=[,\]])", line)]
    assert len(bounds) == 6
    assert all(0 <= bound <= 1 for bound in bounds[:4])
    assert all(-1 <= bound <= 1 for bound in bounds)


def test_without_new_seeds_the_table_claims_nothing(folder: SearchFolder) -> None:
    assert "it is not known whether it is better than the default" in text_table(result_of(folder, []))


def test_csv_has_every_trial(folder: SearchFolder) -> None:
    write_csv(folder, result_of(folder, confirmation_records([0.81, 0.8, 0.79], [0.71, 0.7, 0.69])))
    with folder.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 + 6
    assert rows[4]["contrastive.margin"] == "0.9"
    assert rows[9]["message"] == "the loss is not finite <step 3>"
    assert rows[9]["knn_accuracy"] == ""
    assert rows[10]["trial"] == "confirm/best-1000"
