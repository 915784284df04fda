"""The page of a search: what it has to show, and that it is self-contained."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from recorded_search import (
    confirmation_records,
    margin_records,
    margin_search,
    pareto_records,
    pareto_search,
    store,
)

from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.config import Search
from neuroimagen.tune.records import SearchFolder, TrialRecord, add_line
from neuroimagen.tune.report.page import render
from neuroimagen.tune.report.result import read_result

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return SearchFolder(tmp_path / "out")


def page_of(folder: SearchFolder, search: Search, records: list[TrialRecord]) -> str:
    store(folder, search, records)
    page = render(read_result(folder, search, Recipe(), num_stimuli=400), folder, recipe="seed: 4\n")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\((?!#|data:)|@import|<img", page)
    return page


def test_a_margin_search_s_page_has_every_trial_its_failure_and_the_comparison(folder: SearchFolder) -> None:
    confirmations = confirmation_records([0.81, 0.8, 0.79], [0.71, 0.7, 0.69])
    page = page_of(folder, margin_search(), [*margin_records(), *confirmations])
    assert page.count("<polyline") == 9
    assert page.count('class="best"') == 2  # its line and its row
    assert "the loss is not finite &lt;step 3&gt;" in page
    assert "retried 1×" in page
    assert "better than the default</h3>" in page
    assert "Importance" in page
    assert "seed: 4" in page
    assert page.count("<svg") >= 4  # comparison, parallel coordinates, slices, curves


def test_without_new_seeds_nothing_is_called_better(folder: SearchFolder) -> None:
    page = page_of(folder, margin_search(), margin_records())
    assert "it is not known whether it is better" in page
    assert "better than the default</h3>" not in page


def test_a_pareto_search_shows_its_front(folder: SearchFolder) -> None:
    page = page_of(folder, pareto_search(), pareto_records())
    assert "Pareto front" in page
    assert "--run &#39;runs/a b&#39;" in page


def test_population_based_training_shows_its_schedule(folder: SearchFolder) -> None:
    values = {"contrastive.margin": 0.7, "contrastive.distance": "cosine"}
    copy = {"from": "trials/0001", "run": 0, "step": 3, "values": values}
    page_of(folder, margin_search(), margin_records())
    add_line(folder.trial("trials/0004").copies, copy)
    page = render(read_result(folder, margin_search(), Recipe(), num_stimuli=400), folder, recipe="")
    assert "step 3, checkpoint of trials/0001: contrastive.margin 0.7" in page
