"""Hostile text in every string of every file that a page is made of: the markup stays inert, LaTeX and Markdown too."""

import base64
import contextlib
import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import simulated_run

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.report.page import write_report
from neuroimagen.trainer.report.tables import escaped, markdown
from neuroimagen.trainer.report.templates import content_policy

HOSTILE = (
    "\"'><img src=x onerror=alert(1)><script>alert(2)</script></svg></style>$\\frac{$ & %_#~^`|[x](javascript:1)\x1b[2J"
)
RAN = re.compile(r"onerror|alert")


class Markup(HTMLParser):
    """What a browser would act on: elements, attributes that run code, scripts, and links."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: list[str] = []
        self.policy = ""
        self.acts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._in_script = tag == "script" and values.get("type") != "application/json"
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        self.acts += [f"{tag} {name}" for name in values if name.startswith("on")]
        self.acts += [f"{tag} {value}" for name, value in values.items() if value.lower().startswith("javascript:")]
        if tag in ("iframe", "object", "embed", "base", "form") or values.get("src") == "x":
            self.acts.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


def strings_of(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every string in a JSON value."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, str):
            yield (*path, key)
        elif isinstance(value, dict | list):
            yield from strings_of(value, (*path, key))


def with_text(tree: Any, place: tuple[Any, ...], text: str) -> None:
    for key in place[:-1]:
        tree = tree[key]
    tree[place[-1]] = text


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("evaluated")
    scenes = simulated_run.write_dataset(folder / "data", num_images=6, num_classes=2)
    run = simulated_run.write_run(folder / "run", folder / "data", scenes)
    classifier, clip = (str(tiny_diffusion_folder / name) for name in ("classifier", "clip"))
    evaluate_run(
        run, Dataset.open(folder / "data"), EvaluateConfig(classifier=classifier, clip=clip, num_resamples=100)
    )
    return run, folder / "data"


def check_inert(page: str) -> None:
    markup = Markup(page)
    assert not markup.acts
    assert len(markup.scripts) == 1
    digest = base64.b64encode(hashlib.sha256(markup.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in markup.policy
    assert not RAN.search(markup.scripts[0])


def test_every_text_of_every_file_stays_text(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    """All strings at once where the page can still be made, so that one run shows all of them."""
    run = tmp_path / "run"
    shutil.copytree(evaluated[0], run)
    hostile_stage = run / HOSTILE.replace("/", "_").replace("\x1b", "e")[:200]
    hostile_stage.mkdir()
    (hostile_stage / "metrics.jsonl").write_text(
        json.dumps({"step": 1, f"{HOSTILE}_loss": 1.0, "val_loss": 2.0}) + "\n"
    )
    start = {"command": ["neuroimagen", HOSTILE], "started": HOSTILE, "selection_split": HOSTILE}
    (hostile_stage / "environment.json").write_text(json.dumps([start]))
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + f"# {HOSTILE.replace(chr(27), '')}\n")
    for name in ("results.json", "details.json"):
        path = run / "report" / name
        tree = json.loads(path.read_text())
        named = [
            item for item in strings_of(tree) if item[-1] not in ("condition", "metric") and "metric" not in str(item)
        ]
        for place in named:
            with_text(tree, place, f"{HOSTILE}{len(place)}")
        path.write_text(json.dumps(tree))
    page = write_report(run, Dataset.open(evaluated[1])).read_text()
    assert "alert" in page
    check_inert(page)
    latex = (run / "report" / "table.tex").read_text()
    assert "\\frac{$" not in latex
    assert "<script" not in (run / "report" / "report.md").read_text()


@pytest.mark.parametrize("name", ["results.json", "details.json"])
def test_one_text_at_a_time_gives_a_page_or_a_line(name: str, evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated[0], run)
    path = run / "report" / name
    whole = path.read_text()
    kinds = {re.sub(r"\d+", "#", str(place)): place for place in strings_of(json.loads(whole))}
    places = [kinds[kind] for kind in sorted(kinds)]
    dataset = Dataset.open(evaluated[1])
    for place in places[:: max(1, len(places) // 6)]:
        tree = json.loads(whole)
        with_text(tree, place, HOSTILE)
        path.write_text(json.dumps(tree))
        with contextlib.suppress(UserError):
            check_inert(write_report(run, dataset).read_text())


def test_items_that_name_files_outside_the_run_are_refused(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated[0], run)
    path = run / "report" / "items.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    shutil.copy(run / "reconstructions" / lines[0]["file"], tmp_path / "secret.png")
    (run / "reconstructions" / "link.png").symlink_to(tmp_path / "secret.png")
    for name in (str(tmp_path / "secret.png"), "../../secret.png", "link.png"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows({**line, "file": name} for line in lines)
        with pytest.raises(UserError, match="a file outside"):
            write_report(run, Dataset.open(evaluated[1]))


def test_templates_mark_nothing_safe_and_run_nothing_inline() -> None:
    root = Path(__file__).resolve().parents[2]
    templates = [path for folder in ("trainer", "tune") for path in (root / folder).rglob("*.j2")]
    assert len(templates) >= 4
    for path in templates:
        text = path.read_text()
        assert not re.search(r"\|\s*safe|autoescape|<script>|\son\w+=", text), path
        assert "{{ policy }}" in text, path


def test_policy_allows_one_script_or_none() -> None:
    assert "script-src" not in content_policy("")
    assert "unsafe-inline'; script" not in content_policy("code")
    assert content_policy("a") != content_policy("b")


def test_latex_and_markdown_hold_no_command() -> None:
    text = escaped("\\input{/etc/passwd} $x$ ~^ # % & _ <>|`\nnew \x1b")
    assert text == (
        r"\textbackslash{}input\{/etc/passwd\} \$x\$ \textasciitilde{}\textasciicircum{} \# \% \& \_ "
        r"\textless{}\textgreater{}\textbar{}\textasciigrave{} new \textbackslash{}x1b"
    )
    assert markdown("<img>|[a](b)`\n# x") == "&lt;img>\\|\\[a](b)\\` # x"
