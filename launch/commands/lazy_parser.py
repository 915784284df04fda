"""A parser whose arguments are added when it is first used."""

import argparse
import importlib
from collections.abc import Callable
from typing import Any


class LazyParser(argparse.ArgumentParser):
    """A parser whose arguments are added when it is first used, so that other commands' modules are not imported."""

    def __init__(self, *, fill: Callable[[argparse.ArgumentParser], None] | None = None, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._fill = fill

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)
        return super().parse_known_args(args, namespace)


def fill_from(module_name: str, parser: argparse.ArgumentParser) -> None:
    """Give a parser the description, examples and arguments of a command's module: HELP, EPILOG, add_arguments."""
    module = importlib.import_module(module_name)
    parser.description, parser.epilog = module.HELP, module.EPILOG
    module.add_arguments(parser)
