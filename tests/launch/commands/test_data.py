"""`neuroimagen data`: its actions, their help, and wrong usage."""

import re

import pytest

from neuroimagen.data_shards.sources.registry import SOURCES
from neuroimagen.launch.cli import main
from neuroimagen.launch.commands.data import ACTIONS


def test_the_actions_are_these() -> None:
    assert list(ACTIONS) == ["simulate", "ingest", "verify", "audit", "show", "info", "repack"]


@pytest.mark.parametrize(
    "words",
    [["data"], *(["data", action] for action in ACTIONS), *(["data", "ingest", source] for source in SOURCES)],
    ids=" ".join,
)
def test_help_has_examples(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: neuroimagen {' '.join(words)} ")
    assert re.search(r"^examples:\n +\S", printed, re.MULTILINE)


@pytest.mark.parametrize(
    "words",
    [["data"], ["data", "ingest"], ["data", "ingest", "eegcvpr40"], ["data", "verify", "a", "--what"], ["data", "x"]],
    ids=" ".join,
)
def test_wrong_words_exit_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
