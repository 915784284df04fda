"""The report: self-contained, complete, and alive in a browser; examples chosen by their stated rank."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import simulated_run
from browser import WIDTHS_PX, ask, needs_chromium
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.evaluation.scoring.things.config import ThingsConfig
from neuroimagen.trainer.report import page as report
from neuroimagen.trainer.report import plots
from neuroimagen.trainer.report.page import write_report
from neuroimagen.trainer.report.tables import markdown as escaped_markdown


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> tuple[Path, Path]:
    """An evaluated run with its report, and the data set; read only."""
    folder = tmp_path_factory.mktemp("reported")
    scenes = simulated_run.write_dataset(folder / "data")
    run = simulated_run.write_run(folder / "run", folder / "data", scenes)
    classifier, clip = (str(tiny_diffusion_folder / name) for name in ("classifier", "clip"))
    dataset = Dataset.open(folder / "data")
    things = ThingsConfig(clip=clip, swav=classifier)
    config = EvaluateConfig(classifier=classifier, clip=clip, preset="things", things=things, num_resamples=100)
    evaluate_run(run, dataset, config)
    write_report(run, dataset)
    return run, folder / "data"


class Page(HTMLParser):
    """What a page refers to: sources of images, other references, and the ids that it defines and points at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag == "img":
            self.images.append(values["src"])
        self.references += [values[name] for name in ("href", "xlink:href", "action", "poster") if name in values]
        if tag != "img" and "src" in values:
            self.references.append(values["src"])
        if "id" in values:
            self.ids.append(values["id"])


def test_the_page_refers_to_nothing_outside_itself(reported: tuple[Path, Path]) -> None:
    text = (reported[0] / "report" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.images) == 6 * 3 * 3  # classes × (best, median, worst) × (stimulus, saliency map, reconstruction)
    assert all(source.startswith("data:image/") for source in page.images)
    assert all(reference.startswith(("#", "data:")) for reference in page.references), page.references
    assert all(target.startswith(("data:", "#")) for target in re.findall(r"url\(['\"]?([^)'\"]+)", text))
    assert not re.findall(r"@import|https?://", text)
    assert len(set(page.ids)) == len(page.ids)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert {"iframe", "object", "embed", "base", "form"}.isdisjoint(page.tags)


def test_the_figures_of_a_preset_stand_in_a_group_with_what_they_compare_with(reported: tuple[Path, Path]) -> None:
    report = reported[0] / "report"
    group = json.loads((report / "details.json").read_text(encoding="utf-8"))["preset"]
    assert group["metrics"] == ["things_pixcorr", "things_ssim", "things_clip", "things_swav"]
    results = [item for item in json.loads((report / "results.json").read_text()) if item["metric"] == "things_swav"]
    assert {"full", "semantic_only", "mean_image"} <= {item["condition"] for item in results}
    assert all("(ResNetModel of transformers, classifier)" in item["definition"] for item in results)
    page = (report / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="preset">') : page.index('<section id="classes">')]
    table = (report / "table.txt").read_text(encoding="utf-8")
    markdown = (report / "report.md").read_text(encoding="utf-8")
    for text in (table, markdown, html.unescape(section)):
        assert group["title"] in text
        assert "SSIM, grey, 425 px" in text
        written = [escaped_markdown(note) for note in group["notes"]] if text is markdown else group["notes"]
        assert all(note in text for note in written)
    assert "SwAV" not in table[: table.index(group["title"])]
    assert "SwAV" not in markdown[: markdown.index(group["title"])]
    assert "- **SwAV**" in markdown


def test_the_page_holds_verdict_table_figures_and_how_to_repeat(reported: tuple[Path, Path]) -> None:
    text = (reported[0] / "report" / "report.html").read_text(encoding="utf-8")
    assert text.index('id="verdict"') < text.index('id="images"') < text.index('id="table"')
    for row in ("full model", "true class as prompt", "mean training image", "ceiling", "time index"):
        assert row in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 1 + 2 + 3  # embedding map; butterfly, scalp maps; curves of three stages
    assert "neuroimagen evaluate --run" in text
    for stand_in in (plots.INK, plots.MUTED, plots.GRID, *plots.SERIES):
        assert stand_in not in text


def test_commands_can_be_typed_anywhere_in_the_order_they_were(tmp_path: Path) -> None:
    words = {"contrastive": ["/home/me/venv/bin/neuroimagen", "train"], "saliency": ["/src/launch/cli.py", "launch"]}
    for day, (stage, command) in zip(("2", "1"), words.items(), strict=True):
        (tmp_path / stage).mkdir()
        start = {"started": f"2026-01-0{day}T00:00:00+0000", "command": [*command, stage, "--run", "my runs"]}
        (tmp_path / stage / "environment.json").write_text(json.dumps([start]))
    assert report._commands(tmp_path)[:2] == [
        "neuroimagen launch saliency --run 'my runs'",
        "neuroimagen train contrastive --run 'my runs'",
    ]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_figures_in_the_confusion_matrix_can_be_read(theme: int) -> None:
    """Contrast as the WCAG define it, of every share's figure with its cell; 3 is what they want of large print."""
    css = Path(report.__file__).with_name("report.css").read_text(encoding="utf-8")
    card, ink, accent = (
        np.array([int(re.findall(rf"--{name}: #(\w+)", css)[theme][place : place + 2], 16) for place in (0, 2, 4)])
        for name in ("card", "ink", "accent")
    )
    cell = re.search(r"\.confusion \.cell \{(.*?)\}", css, re.DOTALL)
    assert cell is not None
    back, fore = re.findall(r"var\(--(?:accent|card)\) calc\((.*?)\), var", cell[1])

    def share_of_first(expression: str, share: float) -> float:
        return min(100.0, max(0.0, eval(expression.replace("var(--share)", str(share)).replace("%", "")))) / 100

    def luminance(colour: np.ndarray) -> float:
        linear = np.where(colour / 255 <= 0.03928, colour / 255 / 12.92, ((colour / 255 + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for share in np.linspace(0, 1, 101):
        filled, written = share_of_first(back, share), share_of_first(fore, share)
        levels = [luminance(filled * accent + (1 - filled) * card), luminance(written * card + (1 - written) * ink)]
        assert (max(levels) + 0.05) / (min(levels) + 0.05) > 3, share


def test_markdown_latex_and_grid(reported: tuple[Path, Path]) -> None:
    folder = reported[0] / "report"
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for part in markdown.split("\n## ")[:2]:  # the main metrics, the preset's
        table = [line for line in part.splitlines() if line.startswith("|")]
        assert len(table) > 10
        assert len({line.count("|") for line in table}) == 1
    assert "](grid.png)" in markdown
    latex = (folder / "table.tex").read_text(encoding="utf-8")
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in rows} == {5}
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    with Image.open(folder / "grid.png") as grid:
        assert grid.width > 9 * 100
        assert grid.height > 6 * 100


def test_the_report_is_the_same_every_time(reported: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = reported
    again = tmp_path / run.name
    shutil.copytree(run, again)
    for name in ("report.html", "grid.png"):
        (again / "report" / name).unlink()
    write_report(again, Dataset.open(data))
    first = (run / "report" / "report.html").read_text().replace(str(run), "RUN")
    assert (again / "report" / "report.html").read_text().replace(str(again), "RUN") == first
    assert (again / "report" / "grid.png").read_bytes() == (run / "report" / "grid.png").read_bytes()


def test_a_run_that_was_not_evaluated_is_an_error(reported: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neuroimagen evaluate"):
        write_report(tmp_path, Dataset.open(reported[1]))


QUESTIONS = """
found.rows = visible(".class-row");
found.cards = visible("#cards figure");
change("filter-class", "value", "1");
found.rowsOfClass = visible(".class-row");
found.cardsOfClass = visible("#cards figure");
found.dimPoints = parts(".map circle.dim").length;
change("filter-subject", "value", "2");
found.cardsOfBoth = visible("#cards figure");
change("filter-class", "value", "");
change("filter-subject", "value", "");
found.cardsAgain = visible("#cards figure");
found.extra = [visible(".results thead th.extra")];
change("all-metrics", "checked", true);
found.extra.push(visible(".results thead th.extra"));
"""


@needs_chromium
@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_the_page_works_in_a_browser(reported: tuple[Path, Path], tmp_path: Path, width_px: int) -> None:
    found = ask(reported[0] / "report" / "report.html", QUESTIONS, folder=tmp_path, width_px=width_px)
    assert len(found["images"]) == 54
    assert (found["rows"], found["cards"], found["cardsAgain"]) == (6, 24, 24)
    assert (found["rowsOfClass"], found["cardsOfClass"], found["cardsOfBoth"]) == (1, 4, 2)
    assert found["dimPoints"] == 20  # of 24 test segments, all but the four of the class
    assert found["extra"][0] == 0
    assert found["extra"][1] >= 10
