"""The pages that can be followed here are followed, from their first block to their last."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from site_pages import ROOT, blocks_of, commands_of
from tutorial_pages import PAGES, Inputs, run_page


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(
    page: str,
    tmp_path: Path,
    inputs: Inputs,
    quick_command: Callable[[list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process, a few steps a stage."""
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, inputs, quick_command)


AS_THEY_STAND = sorted(page for page in PAGES if "tutorials/" in page and page != "docs/tutorials/eegcvpr40.md")
"""EEGCVPR40's recipe trains 80,000 steps at full size, which no CPU does in a day; its commands run above."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", AS_THEY_STAND)
def test_a_tutorial_can_be_followed_as_it_stands(
    page: str, tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command in a shell of its own, with all of its steps."""
    monkeypatch.chdir(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "neuroimagen").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m neuroimagen.launch.cli "$@"\n')
    (programs / "neuroimagen").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def command(words: list[str]) -> int:
        line = " ".join(word if word == ">" else f"'{word}'" for word in words)
        return subprocess.run(["bash", "-c", line], check=False, env=environment).returncode

    run_page(page, tmp_path, inputs, command)


def test_the_commands_of_the_readme_are_the_tutorial_s() -> None:
    """They are run there, on the files that the tutorial describes."""
    tutorial = [words for block in blocks_of("docs/tutorials/own-recordings.md") for words in commands_of(block.code)]
    followed = [
        words
        for block in blocks_of("README.md")
        if block.run_by == "tests/docs/test_tutorials.py"
        for words in commands_of(block.code)
    ]
    assert len(followed) > 5
    assert [words for words in followed if words not in tutorial] == []
    assert shutil.which("bash")
    assert (ROOT / "docs" / "tutorials" / "own-recordings.md").is_file()
