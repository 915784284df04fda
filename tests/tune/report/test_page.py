"""The page and the table of a search, from records alone: what they must show, and that they are self-contained."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.tune.config import Search, search_of
from neuroimagen.tune.confirm import confirmation_trials
from neuroimagen.tune.records import SearchFolder, TrialRecord, open_search
from neuroimagen.tune.report.result import read_result
from neuroimagen.tune.report.write import results_tree, write_result

SPACE = {"contrastive.margin": {"low": 0.05, "high": 2.0, "log": True}, "contrastive.distance": ["cosine", "euclidean"]}
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


def margin_records() -> list[TrialRecord]:
    records = []
    for number in range(9):
        margin, distance = round(0.1 + 0.2 * number, 2), ("cosine", "euclidean")[number % 2]
        value = 0.8 - abs(margin - 0.9) / 2
        state = "stopped" if number % 3 == 2 else "finished"
        curve = ((3, value / 2), (9, value)) if state == "finished" else ((3, value / 2),)
        records.append(
            TrialRecord(
                name=f"trials/{number:04d}",
                values={"contrastive.margin": margin, "contrastive.distance": distance},
                seed=0,
                state=state,  # type: ignore[arg-type]
                figures={"knn_accuracy": curve[-1][1], "accuracy": 0.5},
                curve=curve,
                steps=curve[-1][0],
                num_starts=2 if number == 4 else 1,
                retries=1 if number == 4 else 0,
            )
        )
    bad = TrialRecord(
        name="trials/0009",
        values={"contrastive.margin": 0.3, "contrastive.distance": "cosine"},
        seed=0,
        state="failed",
        message="the loss is not finite <step 3>",
    )
    return [*records, bad]


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return SearchFolder(tmp_path / "out")


def write(folder: SearchFolder, search: Search, records: list[TrialRecord]) -> str:
    open_search(folder, search, Recipe(), resume=False)
    for record in records:
        folder.write(record)
    write_result(folder, search, Recipe())
    page = folder.page.read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|url\((?!#|data:)|@import|<img", page)
    return page


def test_a_margin_search_s_page_has_every_trial_its_failure_and_the_comparison(folder: SearchFolder) -> None:
    space = {
        "contrastive.margin": {"low": 0.05, "high": 2.0, "log": True},
        "contrastive.distance": ["cosine", "euclidean"],
    }
    search = search_of({"recipe": "r", "space": space}, "margin", where="x")
    confirmations = []
    default = {"contrastive.margin": 1.0, "contrastive.distance": "cosine"}
    best = {"contrastive.margin": 0.9, "contrastive.distance": "cosine"}
    for record in confirmation_trials(best, default, base_seed=0, num_seeds=3):
        value = (0.8 if "best" in record.name else 0.7) + record.seed / 1e5
        confirmations.append(
            TrialRecord(
                name=record.name,
                values=record.values,
                seed=record.seed,
                state="finished",
                figures={"knn_accuracy": value},
            )
        )
    page = write(folder, search, [*margin_records(), *confirmations])
    assert page.count("<polyline") == 9
    assert page.count('class="best"') == 2  # its line and its row
    assert "the loss is not finite &lt;step 3&gt;" in page
    assert "retried 1×" in page
    assert "better than the default" in page
    assert "Importance" in page
    slices = page[page.index('id="slices-') : page.index("Curves</h2>")]
    labels = re.findall(r">([^<>]+)</text>", slices)
    assert labels[:3] == ["0.05", "0.3162", "2"]  # of a range of one or two decades matplotlib's own overlap
    assert page.count("<svg") >= 4  # new seeds, parallel coordinates, slices, curves
    recipe = load_recipe(folder.best)
    assert (recipe.contrastive.margin, recipe.contrastive.distance) == (0.9, "cosine")
    table = folder.table.read_text()
    assert table.splitlines()[2].split()[:3] == ["0004", "0.8000", "finished"]
    assert "0.8100 [" in table
    rows = folder.csv.read_text().splitlines()
    assert len(rows) == 1 + 10 + 6
    assert "the loss is not finite" in rows[10]


def test_no_share_is_shown_beyond_its_range(folder: SearchFolder) -> None:
    search = search_of({"recipe": "r", "space": SPACE}, "margin", where="x")
    best, default = ({"contrastive.margin": margin, "contrastive.distance": "cosine"} for margin in (0.9, 1.0))
    confirmations = [
        dataclasses.replace(record, state="finished", figures={"knn_accuracy": value})
        for record, value in zip(
            confirmation_trials(best, default, base_seed=0, num_seeds=2),
            (0.95, 0.4, 0.9, 0.1),
            strict=True,
        )
    ]
    write(folder, search, [*margin_records(), *confirmations])
    (line,) = [line for line in folder.table.read_text().splitlines() if "new seeds:" in line]
    bounds = [float(bound) for bound in re.findall(r"[-+]?\d\.\d{4}(?=[,\]])", line)]
    assert len(bounds) == 6
    assert all(0 <= bound <= 1 for bound in bounds[:4])
    assert all(-1 <= bound <= 1 for bound in bounds)


def test_without_new_seeds_nothing_is_called_better(folder: SearchFolder) -> None:
    page = write(folder, search_of({"recipe": "r", "space": SPACE}, "margin", where="x"), margin_records())
    assert "it is not known whether it is better" in page
    assert "it is not known whether it is better" in folder.table.read_text()
    assert "better than the default</h3>" not in page


def test_a_pareto_search_shows_its_front(folder: SearchFolder) -> None:
    search = search_of(
        {
            "space": {"reconstruct.guidance": {"low": 1.0, "high": 9.0}},
            "pareto": ["ssim", "two_way_clip"],
            "run": "runs/a b",
        },
        "guidance",
        where="x",
    )
    points = [(0.1, 0.9), (0.18, 0.86), (0.2, 0.5), (0.15, 0.6)]
    records = [
        TrialRecord(
            name=f"trials/{number:04d}",
            values={"reconstruct.guidance": 1.0 + number},
            seed=0,
            state="finished",
            figures={"ssim": x, "two_way_clip": y},
            curve=((96, x),),
            steps=96,
        )
        for number, (x, y) in enumerate(points)
    ]
    page = write(folder, search, records)
    assert "Pareto front" in page
    assert "--run &#39;runs/a b&#39;" in page
    tree = results_tree(read_result(folder, search, Recipe()))
    assert tree["pareto_front"] == ["trials/0002", "trials/0001", "trials/0000"]
    assert load_recipe(folder.best).reconstruct.guidance == 2.0
