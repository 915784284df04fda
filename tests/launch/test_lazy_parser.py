"""Subcommands that are filled only when they are used."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.lazy_parser import LazyParser, add_subcommands, fill_from


def made(filled: list[str], asked: list[str]) -> argparse.ArgumentParser:
    def fill(name: str, parser: argparse.ArgumentParser) -> None:
        if name == "broken":
            raise UserError("the package is broken")
        filled.append(name)
        parser.description, parser.epilog = f"What {name} does.", "examples:\n  tool one"
        parser.add_argument("--number", type=int)

    def line(name: str) -> Callable[[], str]:
        def ask() -> str:
            asked.append(name)
            return f"help of {name}"

        return ask

    parser = argparse.ArgumentParser(prog="tool")
    lines = {"one": "the first", "two": line("two"), "broken": line("broken")}
    add_subcommands(parser, lines, dest="action", metavar="ACTION", fill=fill)
    return parser


def test_only_the_subcommand_that_is_used_is_filled() -> None:
    filled: list[str] = []
    asked: list[str] = []
    parser = made(filled, asked)
    for _ in range(2):
        assert parser.parse_args(["two", "--number", "3"]) == argparse.Namespace(action="two", number=3)
    assert (filled, asked) == (["two"], [])


def test_the_list_asks_for_every_line_once_and_fills_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    filled: list[str] = []
    asked: list[str] = []
    parser = made(filled, asked)
    for _ in range(2):
        with pytest.raises(SystemExit):
            parser.parse_args(["--help"])
    assert (filled, asked) == ([], ["two", "broken"])
    printed = capsys.readouterr().out
    for name, text in (("one", "the first"), ("two", "help of two"), ("broken", "help of broken")):
        assert f"    {name:10}" in printed
        assert f" {text}\n" in printed


def test_the_help_of_a_subcommand_has_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        made([], []).parse_args(["one", "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: tool one [-h] [--number NUMBER]\n\nWhat one does.\n")
    assert printed.endswith("examples:\n  tool one\n")


def test_what_cannot_be_filled_is_the_caller_s_error() -> None:
    with pytest.raises(UserError, match="the package is broken"):
        made([], []).parse_args(["broken"])


def test_wrong_usage_exits_with_2() -> None:
    for words in ([], ["three"], ["one", "--number", "x"]):
        with pytest.raises(SystemExit) as stopped:
            made([], []).parse_args(words)
        assert stopped.value.code == 2


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


@pytest.mark.parametrize("text", ["nan", "inf", "1e999"])
def test_an_option_of_type_float_takes_finite_numbers(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = LazyParser(prog="tool")
    parser.add_argument("--low", type=float)
    assert parser.parse_args(["--low=-1e-3"]).low == -0.001
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([f"--low={text}"])
    assert stop.value.code == 2
    assert f"argument --low: '{text}' is not a finite number" in capsys.readouterr().err
