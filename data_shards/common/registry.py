"""Registries of what grows: encoders, stages, sources, metrics, image towers, schedulers.

A registry names what is built in, one line each, and adds what other installed packages declare as entry points of its
group (docs/how-to/extending.md). Names are known without an import; what stands behind a name is imported when it is
asked for, so that `neuroimagen --help` loads none of it.
"""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from neuroimagen.data_shards.common.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for.

    Args:
        kind: What one entry is, in the words of a message: "encoder", "source".
        group: Group of the entry points by which other packages add entries: "neuroimagen.encoders".
        builtin: Name → "module:attribute" of what comes with neuroimagen, in the order in which it is listed.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = builtin
        self._loaded: dict[str, T] = {}

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        """Entries of other packages, by name; in the order of their names."""
        found = sorted(entry_points(group=self.group), key=lambda entry: entry.name)
        added: dict[str, EntryPoint] = {}
        for entry in found:
            if entry.name in self._builtin or added.setdefault(entry.name, entry).value != entry.value:
                raise UserError(
                    f"{_package(entry)} adds the {self.kind} {entry.name!r}, but there is one of that name already. "
                    "Uninstall one of them, or have its author rename it."
                )
        return added

    def names(self) -> tuple[str, ...]:
        """Every name: what is built in first, then what other packages add."""
        return (*self._builtin, *self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._added

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> T:
        """What stands behind a name. Raises UserError for an unknown one, and for one whose package fails to import."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def items(self) -> Iterator[tuple[str, T]]:
        """Every name with what stands behind it; imports all of them."""
        for name in self.names():
            yield name, self[name]

    def unknown(self, name: str) -> UserError:
        """The error for a name that is not registered; it says the nearest one, and all of them."""
        close = difflib.get_close_matches(name, self.names(), n=1)
        nearest = f"Did you mean {close[0]!r}? " if close else ""
        return UserError(f"there is no {self.kind} {name!r}. {nearest}There are {', '.join(self.names())}.")

    def _load(self, name: str) -> Any:
        if name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        if name not in self._added:
            raise self.unknown(name)
        entry = self._added[name]
        try:
            return entry.load()
        except Exception as error:  # whatever the other package's import raises
            raise UserError(
                f"the {self.kind} {name!r} of {_package(entry)} cannot be imported: {type(error).__name__}: {error}. "
                "Update or uninstall that package."
            ) from error


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist is not None else f"the entry point {entry.value}"
