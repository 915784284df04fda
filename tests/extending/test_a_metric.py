"""A metric from another package reaches results, tables, page and searches."""

import csv
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simulated_run

DEFINITION = "Pearson correlation of the brightness gradient's magnitude in image and stimulus at 32 px"


@pytest.fixture
def run(tmp_path: Path, tiny_diffusion_folder: Path) -> Path:
    scenes = simulated_run.write_dataset(tmp_path / "data")
    run = simulated_run.write_run(tmp_path / "run", tmp_path / "data", scenes)
    settings = {name: str(tiny_diffusion_folder / name) for name in ("classifier", "clip")} | {"num_resamples": 100}
    with (run / "config.yaml").open("a") as recipe:
        recipe.write(f"evaluate: {json.dumps(settings)}\n")
    return run


def test_the_metric_is_in_results_tables_and_page(outside_package: Callable[[str], Any], run: Path) -> None:
    package = outside_package("A metric")
    package.run("evaluate", "--run", run, "--cpu")
    package.run("report", "--run", run)
    folder = run / "report"

    results = {
        item["condition"]: item
        for item in json.loads((folder / "results.json").read_text())
        if item["metric"] == "edges"
    }
    assert set(results) == {path.name for path in (run / "reconstructions").iterdir()} | {"full_minus_semantic_only"}
    assert all(DEFINITION in item["definition"] and item["n"] == 24 for item in results.values())
    assert results["vae_round_trip"]["value"] > results["full"]["value"] > results["mean_image"]["value"]
    assert results["full"]["low"] < results["full"]["value"] < results["full"]["high"]
    with (folder / "items.csv").open(newline="") as file:
        figures = [float(line["edges"]) for line in csv.DictReader(file) if line["condition"] == "full"]
    assert sum(figures) / len(figures) == pytest.approx(results["full"]["value"], abs=1e-5)

    markdown = (folder / "report.md").read_text()
    assert f"- **edges**: {DEFINITION}." in markdown
    assert "within class, % | edges |" in markdown
    page = (folder / "report.html").read_text()
    assert DEFINITION in html.unescape(page)
    assert re.search(r'<th class="main" title="[^"]*">edges', page)
    assert "edges" in (folder / "table.tex").read_text()
    assert "edges" in (folder / "table.txt").read_text()


def test_a_guidance_search_takes_it_as_objective(outside_package: Callable[[str], Any]) -> None:
    package = outside_package("A metric")
    code = """
from neuroimagen.tune.config import search_of
from neuroimagen.tune.confirm import range_of
tree = {"space": {"reconstruct.guidance": [1.0, 3.0]}, "objective": {"edges": 1.0, "ssim": 1.0}}
search = search_of(tree, "guidance", where="x")
print(range_of(search, "objective"))
"""
    assert package.python(code).stdout.strip() == "(-1.0, 1.0)"
