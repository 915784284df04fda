"""A lazy parser adds its arguments, and imports the command's module, when it is first used."""

import argparse
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from neuroimagen.launch.commands.lazy_parser import LazyParser, fill_from


def parser_of_two(filled: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="p")
    commands = parser.add_subparsers(dest="command", parser_class=LazyParser)
    for name in ("first", "second"):

        def fill(target: argparse.ArgumentParser, name: str = name) -> None:
            filled.append(name)
            target.add_argument(f"--{name}")

        commands.add_parser(name, help=f"the {name} one", fill=fill)
    return parser


def test_only_the_command_that_is_used_is_filled(capsys: pytest.CaptureFixture[str]) -> None:
    filled: list[str] = []
    parser = parser_of_two(filled)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "the first one" in capsys.readouterr().out
    assert filled == []
    for _ in range(2):  # a second use adds nothing twice
        assert parser.parse_args(["second", "--second", "x"]).second == "x"
    assert filled == ["second"]


def test_help_of_a_command_has_what_its_module_declares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = SimpleNamespace(
        HELP="Does a thing.", EPILOG="examples:\n  p a", add_arguments=lambda parser: parser.add_argument("--size")
    )
    monkeypatch.setitem(sys.modules, "a_command_module", module)
    parser = LazyParser(prog="p", fill=partial(fill_from, "a_command_module"))
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    printed = capsys.readouterr().out
    assert "Does a thing." in printed
    assert "--size SIZE" in printed
    assert printed.endswith("examples:\n  p a\n")  # as it stands, not filled into paragraphs
