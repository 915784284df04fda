"""The site: what it reads from the code, its links, and that a browser fetches nothing."""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from site_pages import ROOT, pages
from site_parts import command_pages, docstrings, notebooks, recipe_keys

import neuroimagen
from neuroimagen.launch.cli import COMMANDS
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.stages.registry import STAGES


def test_every_command_and_subcommand_has_its_help() -> None:
    found = {words: parser for name in COMMANDS for words, parser in command_pages.command_parsers(name)}
    assert {words.split()[1] for words in found} == set(COMMANDS)
    assert "--class-column" in found["neuroimagen data ingest bids"].format_help()
    assert all(isinstance(parser, argparse.ArgumentParser) and parser.description for parser in found.values())


def test_every_section_and_key_of_a_recipe_is_listed() -> None:
    listed = {
        title: {key for key, _, _ in recipe_keys.keys(config, hidden)}
        for title, config, hidden in recipe_keys.sections()
    }
    own = {field.name for field in dataclasses.fields(Recipe)} - {"seed", "encoder", "stages"}
    assert own | set(STAGES.names()) <= set(listed)
    for name in STAGES.names():
        fields = {field.name for field in dataclasses.fields(STAGES[name].Config)}
        assert fields <= listed[name] | listed["every stage"]
    contrastive = {
        key: (default, meaning) for key, default, meaning in recipe_keys.keys(STAGES["contrastive"].Config, None)
    }
    default, meaning = contrastive["margin"]
    assert float(default) == STAGES["contrastive"].Config().margin
    assert meaning


def test_docstrings_become_text_code_and_lists() -> None:
    lines = ["First line, `code_` and a*b.", "", "- one_", "- two", "", "    x = |y|", "", "`row`s"]
    assert docstrings.as_rst(lines) == [
        *("First line, ``code_`` and a\\*b.", "", "- one\\_", "", "- two", ""),
        *("::", "", "    x = |y|", "", "``row``\\ s", ""),
    ]


def test_a_notebook_becomes_a_page(tmp_path: Path) -> None:
    cells = [{"cell_type": "markdown", "source": ["# T\n", "text"]}, {"cell_type": "code", "source": ["a = 1\n", "a"]}]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    assert notebooks.as_markdown(tmp_path / "n.ipynb") == "# T\ntext\n\n```python\na = 1\na\n```"


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    for name in neuroimagen.__all__:
        if name != "__version__":
            assert re.search(rf"^\.\. auto\w+:: neuroimagen\.{name}$", page, re.MULTILINE), name


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_files(page: str) -> None:
    """Sphinx checks those of the site, with their anchors; here those of README.md and others too."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


class _Fetched(HTMLParser):
    """What a browser fetches when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
        self.addresses += [value for key, value in attributes if key == names.get(tag) and value]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-d", str(tmp_path / "trees")]
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(site)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = list(site.rglob("*.html"))
    assert len(shown) > 30
    for path in shown:
        fetched = _Fetched()
        fetched.feed(path.read_text(encoding="utf-8"))
        assert fetched.addresses
        for address in fetched.addresses:
            assert not address.startswith(("http:", "https:", "//")), f"{path.name} fetches {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import\s+['\"]?http", style.read_text(encoding="utf-8"))
