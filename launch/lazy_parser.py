"""Subcommands whose modules are imported only when they are used.

`neuroimagen`, `neuroimagen data` and `neuroimagen data ingest` each have subcommands. The parser of a subcommand gets
its arguments when it parses for the first time, so that a command line imports the modules of its own command only.
"""

import argparse
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from neuroimagen.data_shards.common.numbers import finite_number

HelpLine = str | Callable[[], str]
"""The line that the parent's help shows for a subcommand; or a function that returns it, called if that help is
printed."""
Fill = Callable[[str, argparse.ArgumentParser], None]
"""Adds description, examples and arguments to the parser of the subcommand with this name."""


def add_subcommands(
    parser: argparse.ArgumentParser, help_lines: Mapping[str, HelpLine], *, dest: str, metavar: str, fill: Fill
) -> None:
    """Give `parser` one subcommand for each name in `help_lines`; one of them is required on the command line.

    The attribute `dest` of the parsed arguments holds the name. `fill` is called once, for the subcommand that is used.
    """
    action: Any = parser.add_subparsers(
        dest=dest, metavar=metavar, required=True, action=_Subcommands, parser_class=LazyParser
    )
    for name, line in help_lines.items():
        action.add_lazy(name, line, fill)


class LazyParser(argparse.ArgumentParser):
    """The parser of a subcommand: `fill` completes it when it parses for the first time."""

    def __init__(self, *, fill: Callable[[argparse.ArgumentParser], None] | None = None, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.register("type", float, finite_number)  # of every option with type=float, also of sources from outside
        self._fill = fill

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)
        return super().parse_known_args(args, namespace)


class _Subcommands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """argparse's subcommands, with help lines that may be functions."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._help_lines: dict[str, HelpLine] = {}

    def add_lazy(self, name: str, help_line: HelpLine, fill: Fill) -> None:
        self._help_lines[name] = help_line
        self.add_parser(name, help="", fill=lambda parser: fill(name, parser))

    def _get_subactions(self) -> list[argparse.Action]:
        """argparse asks for these while it formats the help of the parent."""
        for listed in self._choices_actions:
            line = self._help_lines[listed.dest]
            self._help_lines[listed.dest] = listed.help = line() if callable(line) else line
        return self._choices_actions


def fill_from(module_name: str, parser: argparse.ArgumentParser) -> None:
    """Give a parser the description, examples and arguments of a command's module: HELP, EPILOG, add_arguments."""
    module = importlib.import_module(module_name)
    parser.description, parser.epilog = module.HELP, module.EPILOG
    module.add_arguments(parser)
