"""Every code block of README.md and of the site: run by a test, or checked with a reason why it is not run."""

import ast
import importlib
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_pages import ROOT, Block, all_blocks, blocks_of, commands_of, neuroimagen_words, pages
from tutorial_pages import PAGES

from neuroimagen.launch.cli import parse
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.tune.config import load_search

LANGUAGES = {"shell", "python", "yaml", "toml", "text"}
OTHER_PROGRAMS = {
    *("pip", "make", "git", "cd", "mkdir", "printf", "tail", "squeue", "hf", "tensorboard", "python", "python3"),
    *("pytest", "ray", "sbatch", "litdata-env/bin/pip", "mosaicml-env/bin/pip"),
}
BLOCKS = all_blocks()


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.name) for block in BLOCKS if block.language in languages]


def test_a_comment_is_about_the_block_below_it_or_about_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "# T\n\n<!-- checked, not run: it\nneeds a GPU -->\n```shell\na\n```\n\n```shell\nb\n```\n\n"
        "<!-- run by: tests/x.py (y) -->\n\n```python\nc\n```\ntext\n```{toctree}\nd\n```\n"
    )
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr("site_pages.ROOT", tmp_path)
    found = [(block.line, block.code, block.not_run, block.run_by) for block in blocks_of("page.md")]
    assert found == [
        (6, "a\n", "it needs a GPU", None),
        (10, "b\n", None, None),
        (16, "c\n", "tests/x.py (y)", "tests/x.py (y)"),
    ]
    (tmp_path / "page.md").write_text("<!-- checked, not run: big files -->\n" + text)
    assert [block.not_run for block in blocks_of("page.md")] == ["it needs a GPU", "big files", "tests/x.py (y)"]


def test_commands_are_cut_at_their_joints() -> None:
    code = "neuroimagen a --x 'b c' \\\n  d   # why\nmake e && neuroimagen f | tail\n# nothing\n"
    assert commands_of(code) == [["neuroimagen", "a", "--x", "b c", "d"], ["make", "e"], ["neuroimagen", "f"], ["tail"]]


@pytest.mark.parametrize("page", pages())
def test_a_page_runs_or_says_why_not(page: str) -> None:
    outside = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    hidden = re.findall(r"^(?: {4}|\t)(?:neuroimagen|make|pip|python) .*", outside, re.MULTILINE)
    assert not hidden, f"{page}: commands stand in ```shell blocks, not indented: {hidden}"
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block.name}: name the block's language"
        for named in re.findall(r"(?:tests|docs)/[\w./-]*\w", block.not_run or ""):
            assert (ROOT / named).exists(), f"{block.name}: {named} is not there"
        assert block.run_by is None or block.run_by.startswith("tests/"), f"{block.name}: which test runs it?"
        if block.not_run is None and block.language in ("shell", "python"):
            assert page in PAGES, f"{block.name}: run it in tests/support/tutorial_pages.py, or say why not"


OUTSIDE = (["data", "ingest", "lab"], ["train", "embedding"])
"""Commands of names that packages outside add: tests/extending runs them."""


@pytest.fixture
def tower_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Make the folders that `--towers` names: which tower a folder is, its configuration says."""
    monkeypatch.chdir(tmp_path)

    def make(words: list[str]) -> None:
        for word in words[words.index("--towers") + 1 :] if "--towers" in words else []:
            if "=" in word and not word.startswith("-"):
                folder = Path(word.partition("=")[2].partition(":")[0])
                folder.mkdir(parents=True, exist_ok=True)
                kind = "dinov2" if "dino" in folder.name else "clip"
                (folder / "config.json").write_text(json.dumps({"model_type": kind}))

    return make


@pytest.mark.parametrize("block", of("shell"))
def test_a_command_line_parses(block: Block, tower_folders: Callable[[list[str]], None]) -> None:
    for command in commands_of(block.code):
        words = neuroimagen_words(command)
        if words is None:
            assert command[0] in OTHER_PROGRAMS, f"{block.name}: what is {command[0]!r}?"
            if command[0] == "make":
                targets = (ROOT / "Makefile").read_text().partition(".PHONY:")[2].partition("\n")[0].split()
                assert set(command[1:2]) <= set(targets)
            if command[:2] in (["python", "-c"], ["python3", "-c"]):
                compile(command[2], block.name, "exec")
            continue
        if "--help" in words or any(words[: len(start)] == start for start in OUTSIDE):
            continue
        tower_folders(words)
        try:
            args = parse(words)
        except SystemExit as stop:
            pytest.fail(f"{block.name}: neuroimagen {' '.join(words)} → exit code {stop.code}")
        for inner in (args, args.inner):
            check_settings(inner, block)


def check_settings(args: Any, block: Block) -> None:
    """Raises where a `--set` names no key of a recipe, or a file of the repository that is not there is named."""
    config = getattr(args, "config", None)
    if config is not None and str(config).startswith("launch/"):
        assert (ROOT / config).is_file(), f"{block.name}: {config}"
    changes = [
        change for change in getattr(args, "set", None) or [] if "binned" not in change and "quadratic" not in change
    ]
    changes = [change for change in changes if not change.startswith(("encoder.bin_", "embedding."))]  # of extending.md
    if changes and args.command != "tune":
        load_recipe(ROOT / "launch" / "recipes" / "demo.yaml", changes)


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_a_recipe_or_a_search(block: Block, tmp_path: Path) -> None:
    tree = yaml.safe_load(block.code)
    path = tmp_path / "block.yaml"
    if {"space", "recipe"} & set(tree):
        kind = "guidance" if any(key.startswith("reconstruct.") for key in tree["space"]) else None
        kind = kind or ("alignment" if any(key.startswith("alignment.") for key in tree["space"]) else "margin")
        shipped = yaml.safe_load((ROOT / "launch" / "recipes" / f"tune-{kind}.yaml").read_text())
        path.write_text(yaml.safe_dump(shipped | tree))
        load_search(path, kind)
    else:
        path.write_text(block.code)
        load_recipe(path)


@pytest.mark.parametrize("block", of("toml"))
def test_toml_is_toml(block: Block) -> None:
    assert tomllib.loads(block.code)


@pytest.mark.parametrize("block", of("python"))
def test_python_compiles_and_imports_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.code, block.name)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("neuroimagen"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.name}: {node.module} has no {alias.name}"


@pytest.mark.parametrize("block", of("text"))
def test_text_is_no_command(block: Block) -> None:
    assert not any(line.lstrip("$ ").startswith("neuroimagen ") for line in block.code.splitlines()), block.name
