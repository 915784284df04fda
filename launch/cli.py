"""`neuroimagen`: the table of commands. A command's module is imported when the command is used."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from neuroimagen import __version__
from neuroimagen.launch.lazy_parser import add_subcommands, fill_from

COMMANDS: dict[str, str] = {
    "demo": "the whole job on a simulated study, ending with a report",
    "data": "simulate, ingest, verify or describe a data set",
    "recipe": "a recipe for a data set and a model folder, with the commands to run next",
    "cache": "compute VAE latents and CLIP embeddings of the stimuli once",
    "train": "train a stage",
    "launch": "run train, cache or reconstruct on many ranks or nodes",
    "reconstruct": "reconstruct images from EEG with a trained run",
    "evaluate": "measure a run's reconstructions beside ablations, floor and oracle conditions",
    "embed": "predict image embeddings of segments or of new EEG",
    "predict": "draw images from new EEG, without a data set",
    "adapt": "measure a run on a new subject, with minutes of calibration data",
    "tune": "search margins or guidance on the validation split",
    "report": "write a run's report: table, images, curves",
    "bench": "side-by-side measurements on this machine",
    "doctor": "what this machine has, and what will work on it",
}
"""Command → one line of help. Its module is neuroimagen.launch.commands.<command>."""


def _module_name(command: str) -> str:
    return f"neuroimagen.launch.commands.{command}"


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command. A command's arguments are added, and its module imported, when it is parsed."""
    parser = argparse.ArgumentParser(
        prog="neuroimagen",
        description="Reconstruct the images that people looked at from their EEG.",
        epilog="`neuroimagen COMMAND --help` shows a command's options and examples.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_subcommands(parser, COMMANDS, dest="command", metavar="COMMAND", fill=_fill)
    return parser


def _fill(command: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    fill_from(_module_name(command), parser)


def command_of(words: Sequence[str]) -> str | None:
    """The command among the words of a command line; None where there is none."""
    return next((word for word in words if word in COMMANDS), None)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """A command's arguments. Exits with code 2, usage and the nearest option where an option is unknown.

    Of `launch`, what follows `--` is a command of its own: `args.words` holds its words, `args.inner` its arguments
    (None where nothing follows).
    """
    own, inner = list(words), []
    if command_of(words) == "launch" and "--" in own:
        cut = own.index("--")
        own, inner = own[:cut], own[cut + 1 :]
    parser = build_parser()
    args, unknown = parser.parse_known_args(own)
    if unknown:
        _refuse(unknown, parser, args)
    args.words = inner
    args.inner = parse(inner) if inner else None
    return args


def _refuse(unknown: Sequence[str], parser: argparse.ArgumentParser, args: argparse.Namespace) -> NoReturn:
    """Exit 2 with the usage of the command that was meant, not of `neuroimagen`, and the option nearest to the word."""
    nested = True
    while nested:
        nested = False
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and (name := getattr(args, action.dest, None)):
                parser, nested = action.choices[name], True
                break
    options = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(unknown[0].partition("=")[0], options, n=1)
    hint = f"; did you mean {near[0]}?" if unknown[0].startswith("-") and near else ""
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def run_words(words: Sequence[str]) -> int:
    """Run a command; returns its exit code and raises its errors."""
    args = parse(words)
    return int(importlib.import_module(_module_name(args.command)).run(args) or 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    from neuroimagen.data_shards.common.console import guarded_output
    from neuroimagen.data_shards.common.errors import UsageError, UserError

    words = list(sys.argv[1:] if argv is None else argv)
    program = " ".join(filter(None, ("neuroimagen", command_of(words))))
    with guarded_output(program):
        try:
            return run_words(words)
        except (UserError, OSError, MemoryError) as error:
            if "--debug" in words:
                raise
            print(f"{program}: {one_line(error)}", file=sys.stderr)
            return 2 if isinstance(error, UsageError) else 1
        except KeyboardInterrupt:
            print(f"{program}: interrupted", file=sys.stderr)
            return 130


def one_line(error: Exception) -> str:
    """The message of an error that the user can do something about, with its line breaks as spaces."""
    from neuroimagen.data_shards.common.console import printable_line

    if isinstance(error, MemoryError):
        return f"the memory of this machine is not enough. {error}".rstrip()
    return printable_line(str(error))


if __name__ == "__main__":
    sys.exit(main())
