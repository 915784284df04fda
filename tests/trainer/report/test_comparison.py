"""Several runs beside each other: figures, paired differences, files that need no other."""

import json
import re
import shutil
from pathlib import Path

import pytest
import simulated_run
from browser import WIDTHS_PX, ask, needs_chromium

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.results import find, read_results
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.report.comparison import is_clear


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> list[Path]:
    """Two runs on one data set, the second with fewer classes right; read only."""
    folder = tmp_path_factory.mktemp("compared")
    scenes = simulated_run.write_dataset(folder / "data")
    config = EvaluateConfig(
        classifier=str(tiny_diffusion_folder / "classifier"),
        clip=str(tiny_diffusion_folder / "clip"),
        num_resamples=100,
    )
    made = []
    for name, right in (("good", 0.9), ("poor", 0.1)):
        run = simulated_run.write_run(folder / name, folder / "data", scenes, right=right, stages=False)
        for other in ("full_detailed", "semantic_only_detailed", "oracle_class", "random_class", "perfect_saliency"):
            shutil.rmtree(run / "reconstructions" / other)
        evaluate_run(run, Dataset.open(folder / "data"), config)
        made.append(run)
    recipe = made[1] / "config.yaml"
    recipe.write_text(recipe.read_text() + "encoder:\n  kind: lstm\n")
    return made


def test_a_comparison_of_two_runs(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    view = json.loads((out / "compare.json").read_text())
    assert [run["name"] for run in view["runs"]] == ["good", "poor"]
    assert view["same_data"]
    first, second = (read_results(run / "report" / "results.json") for run in runs)
    entry = next(item for item in view["differences"] if item["metric"] == "ssim")
    ours, theirs = find(second, "full", "ssim"), find(first, "full", "ssim")
    assert ours is not None
    assert theirs is not None
    assert entry["value"] == pytest.approx(ours.value - theirs.value, abs=1e-5)
    assert {"key": "encoder.kind", "values": ["temporal_spatial", "lstm"]} in view["settings"]
    settings = {item["key"]: item["values"] for item in view["settings"]}
    assert settings["encoder.spatial_filters"][1] == "–"  # an LSTM has none

    page = (out / "compare.html").read_text(encoding="utf-8")
    for difference in view["differences"]:
        assert (f"<b>{difference['text']}</b>" in page) == difference["clear"]
    assert {difference["clear"] for difference in view["differences"]} == {True, False}
    images = re.findall(r'<img src="([^"]+)"', page)
    assert len(images) == 6 * 3  # a class: the stimulus and what two runs draw
    assert all(source.startswith("data:image/") for source in images)
    assert not re.findall(r"https?://", page)
    markdown = (out / "compare.md").read_text(encoding="utf-8")
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1
    latex = (out / "compare.tex").read_text(encoding="utf-8")
    assert {line.count("&") for line in latex.splitlines() if line.endswith(r"\\")} == {3}


def test_a_metric_that_one_run_lacks_has_no_difference(runs: list[Path], tmp_path: Path) -> None:
    """As when one was evaluated before a package that adds the metric was installed."""
    other = shutil.copytree(runs[1], tmp_path / "other")
    details = json.loads((other / "report" / "details.json").read_text())
    details["table_metrics"].append("edges")
    (other / "report" / "details.json").write_text(json.dumps(details))
    results = json.loads((other / "report" / "results.json").read_text())
    results.append({**results[0], "condition": "full", "metric": "edges"})
    (other / "report" / "results.json").write_text(json.dumps(results))
    assert main(["report", str(runs[0]), str(other), "--out", str(tmp_path / "out")]) == 0
    view = json.loads((tmp_path / "out" / "compare.json").read_text())
    (figure,) = (item for item in view["figures"] if item["metric"] == "edges")
    assert [cell is None for cell in figure["cells"]] == [True, False]
    assert "edges" not in {item["metric"] for item in view["differences"]}
    assert "ssim" in {item["metric"] for item in view["differences"]}


def test_segments_of_other_data_are_not_shown_as_the_same(runs: list[Path], tmp_path: Path) -> None:
    """Numbers of segments coincide in data sets that have nothing to do with each other."""
    other = shutil.copytree(runs[1], tmp_path / "other")
    details = json.loads((other / "report" / "details.json").read_text())
    details["provenance"]["data"]["digest"] = "0123456789abcdef"
    (other / "report" / "details.json").write_text(json.dumps(details))
    assert main(["report", str(runs[0]), str(other), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "tested on different data" in page
    assert "The same segments" not in page


@pytest.mark.parametrize(
    ("low", "high", "clear"), [(0.1, 0.3, True), (-0.3, -0.1, True), (-0.1, 0.1, False), (None, None, False)]
)
def test_a_difference_is_clear_where_its_interval_leaves_out_zero(
    low: float | None, high: float | None, clear: bool
) -> None:
    assert is_clear(Estimate(value=0.0, low=low, high=high, n=3)) == clear


QUESTIONS = """
found.rows = visible("tr[data-condition]");
const titles = [...document.getElementById("condition").options].map((option) => option.value);
found.titles = titles.length;
change("condition", "value", "full model");
found.rowsOfOne = visible("tr[data-condition]");
change("condition", "value", "");
found.rowsAgain = visible("tr[data-condition]");
found.verdicts = parts("#verdict article").length;
"""


@needs_chromium
@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_the_comparison_works_in_a_browser(runs: list[Path], tmp_path: Path, width_px: int) -> None:
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "comparison")]) == 0
    found = ask(tmp_path / "comparison" / "compare.html", QUESTIONS, folder=tmp_path, width_px=width_px)
    assert len(found["images"]) == 6 * 3
    rows = json.loads((tmp_path / "comparison" / "compare.json").read_text())["figures"]
    assert found["rows"] == found["rowsAgain"] == len(rows)
    assert found["titles"] == 1 + len({row["title"] for row in rows})
    assert found["rowsOfOne"] == sum(row["condition"] == "full" for row in rows) == 5
    assert found["verdicts"] >= 2


def test_wrong_usage_is_said(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert main(["report", str(runs[0]), "--out", str(tmp_path)]) == 2
    (tmp_path / "config.yaml").touch()
    assert main(["report", str(runs[0]), str(tmp_path)]) == 1
    assert "has not been evaluated" in capsys.readouterr().err
