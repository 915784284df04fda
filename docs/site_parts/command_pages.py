"""The directive `command-help`: a command and its subcommands with their `--help`, as argparse prints it."""

import argparse
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from neuroimagen.launch.cli import COMMANDS, build_parser


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Name → parser, in the order of the help; empty for a command without any."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def filled(parser: Any) -> argparse.ArgumentParser:
    """A subcommand's parser with its arguments, which are added when it is first used."""
    fill, parser._fill = parser._fill, None
    if fill is not None:
        fill(parser)
    return parser


def command_parsers(name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """`neuroimagen NAME` and every command below it: its words, and its parser."""
    waiting = [(f"neuroimagen {name}", filled(subcommands(build_parser())[name]))]
    while waiting:
        words, parser = waiting.pop(0)
        yield words, parser
        below = [(f"{words} {child}", filled(of)) for child, of in subcommands(parser).items()]
        waiting = [*below, *waiting]


class CommandHelp(Directive):
    """`command-help`: all commands; a section each, the help below it."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        sections = []
        for name in COMMANDS:
            section = nodes.section(ids=[f"command-{name}"], names=[name])
            section += nodes.title(text=name)
            for words, parser in command_parsers(name):
                if words.count(" ") > 1:
                    section += nodes.paragraph("", "", nodes.strong(text=words))
                block = nodes.literal_block(text=parser.format_help())
                block["language"] = "text"
                section += block
            sections.append(section)
        return sections


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
