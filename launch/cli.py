"""`neuroimagen`: one table of commands; a command's module is imported only when it is asked for."""

import argparse
import difflib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

COMMANDS: dict[str, str] = {
    "demo": "the whole job on a simulated study, ending with a report",
    "data": "simulate, ingest, verify or describe a data set",
    "cache": "compute VAE latents and CLIP embeddings of the stimuli once",
    "train": "train a stage",
    "launch": "run train, cache or reconstruct on many ranks or nodes",
    "reconstruct": "draw pictures from EEG with a trained run",
    "evaluate": "measure a run's reconstructions, with ablations, floor and oracle rows",
    "tune": "search margins, or guidance, on the validation part",
    "report": "write a run's report: table, pictures, curves",
    "bench": "side-by-side measurements on this machine",
    "doctor": "what this machine has, and what will work on it",
}
"""Command → one line of help. Its module is neuroimagen.launch.commands.<command>."""


def _command_module(name: str) -> ModuleType:
    return importlib.import_module(f"neuroimagen.launch.commands.{name}")


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser with every command's name, and the arguments of `command` only (the others stay unimported)."""
    parser = argparse.ArgumentParser(
        prog="neuroimagen",
        description="EEG recorded while people look at pictures goes in; the pictures come out.",
        epilog="`neuroimagen COMMAND --help` shows a command's options and examples.",
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("neuroimagen"))
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help_line in COMMANDS.items():
        if name != command:
            subparsers.add_parser(name, help=help_line, add_help=False)
            continue
        module = _command_module(name)
        subparser = subparsers.add_parser(
            name,
            help=help_line,
            description=module.HELP,
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        module.add_arguments(subparser)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """A command's arguments; of `launch`, what follows `--` is kept aside as `args.words`."""
    command = next((word for word in words if word in COMMANDS), None)
    own, inner = list(words), []
    if command == "launch" and "--" in own:
        cut = own.index("--")
        own, inner = own[:cut], own[cut + 1 :]
    parser = build_parser(command)
    args, unknown = parser.parse_known_args(own)
    if unknown:
        _refuse(unknown, parser, args)
    args.words = inner
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
    return int(_command_module(args.command).run(args) or 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    from neuroimagen.data_shards.common.errors import UsageError, UserError

    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parse(arguments)
    try:
        return int(_command_module(args.command).run(args) or 0)
    except UserError as error:
        if args.debug:
            raise
        print(f"neuroimagen {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"neuroimagen {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) went away: not an error of ours; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
