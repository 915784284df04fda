"""Strict configuration: a tree of plain values becomes a frozen dataclass, or an error names the key that is wrong.

A section is a field whose type is a dataclass, or a mapping from free names to a dataclass. Keys that a section does
not have are refused with the nearest valid one, and every message says whether the file or a `--set` gave the key.
Types, unions and conversions are pydantic's. Numbers are finite, and neither `true` nor text with blanks is a number;
text that is a number is one, because YAML 1.1 reads 1e-3 as text. What a value has to fulfil beyond its type, a
dataclass checks in `__post_init__` with a ValueError.

A dataclass whose keys were renamed lists them, so that files written before are still read:

    RENAMED: ClassVar[Mapping[str, str]] = {"earlier_name": "present_name"}
"""

import copy
import dataclasses
import difflib
import functools
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Generic, TypeVar

import yaml
from pydantic import AllowInfNan, BeforeValidator, StrictBool, TypeAdapter, ValidationError

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.strict_yaml import load_yaml

T = TypeVar("T")
Key = tuple[str, ...]
"""A key with the sections it is in: ("contrastive", "margin")."""


class Sources:
    """Where each key of a tree comes from: the file, or the override that set it."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._overrides: list[tuple[Key, str]] = []

    def apply(self, tree: dict[str, Any], override: str) -> None:
        """Apply an override such as "contrastive.margin=0.5" to a tree and take note of it.

        Raises UserError if it is not key=value, or if it sets a key below a value.
        """
        name, separator, text = override.partition("=")
        key = tuple(name.strip().split("."))
        if not separator or not all(key):
            raise UserError(f"--set {override}: expected key=value, for instance contrastive.margin=0.5.")
        try:
            value = load_yaml(text)
        except yaml.YAMLError:
            raise UserError(f"--set {override}: the value is not YAML.") from None
        node = tree
        for depth, part in enumerate(key[:-1], start=1):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                raise UserError(f"--set {override}: {'.'.join(key[:depth])} is a value, not a section.")
        node[key[-1]] = value
        self._overrides.append((key, f"--set {override}"))

    def __call__(self, key: Key) -> str:
        """The last override that set the key, a key below it or its section; else the file."""
        number = self.number(key)
        return self._overrides[number - 1][1] if number and key else self._file

    def number(self, key: Key) -> int:
        """Number of the last override that set the key, a key below it or its section, from 1; 0 for the file."""
        for number in range(len(self._overrides), 0, -1):
            other = self._overrides[number - 1][0]
            if other[: len(key)] == key or key[: len(other)] == other:
                return number
        return 0

    def rename(self, old: Key, new: Key) -> None:
        """What is known about `old`, and about the keys below it, is about `new` from now on."""
        self._overrides = [
            ((*new, *key[len(old) :]) if key[: len(old)] == old else key, text) for key, text in self._overrides
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TypeByKey:
    """The dataclass of a section that depends on one of the section's keys, as that of an encoder on `encoder.kind`.

    The type of the section's field is a base class of these dataclasses.
    """

    key: str
    type_of: Callable[[Any], type]
    """Value of the key, None where it is not given → dataclass. Raises UserError or ValueError for an unknown value."""
    values: Iterable[str] = ()
    """Every value, for the message about a setting that belongs to another value."""


class Schema(Generic[T]):
    """The keys and types of a dataclass, and of the dataclasses that are its sections.

    Args:
        kind: The dataclass that is read.
        types: Dotted name of a section → what decides its dataclass, where the field's type alone does not.
    """

    def __init__(self, kind: type[T], *, types: Mapping[str, TypeByKey] | None = None) -> None:
        self._kind = kind
        self._types = dict(types or {})

    def read(self, tree: Mapping[str, Any], sources: Sources) -> T:
        """The dataclass that `tree` describes; `tree` itself stays as it is.

        Raises UserError that says where the wrong key stands, and the nearest valid key or what its value should be.
        """
        own = copy.deepcopy(dict(tree))
        self._check_keys(own, own, self._kind, (), sources)
        built: T = self._build(own, own, self._kind, (), sources)
        return built

    def dotted_keys(self, tree: Mapping[str, Any] | None = None) -> list[str]:
        """Every dotted key. `tree`: decides the types of the sections that depend on it, else the default does."""
        return [".".join(key) for key in self._keys(self._kind, tree or {}, ())]

    def _section(self, hint: Any, key: Key, tree: Any, sources: Sources | None = None) -> Any:
        """The dataclass of a field, or None for a field that is a value; `tree` is what the field is given."""
        choice = self._types.get(".".join(key))
        if choice is None:
            return hint if dataclasses.is_dataclass(hint) else None
        given = tree.get(choice.key) if isinstance(tree, Mapping) else None
        try:
            return choice.type_of(given)
        except (UserError, ValueError) as error:
            if sources is None:
                raise
            here = (*key, choice.key)
            raise UserError(f"{sources(here)}: {'.'.join(here)}: {error}") from None

    def _keys(self, kind: Any, tree: Any, prefix: Key) -> Iterator[Key]:
        for name, hint in _fields(kind).items():
            key, value = (*prefix, name), tree.get(name) if isinstance(tree, Mapping) else None
            yield key
            if (section := self._section(hint, key, value)) is not None:
                yield from self._keys(section, value, key)
            elif (entry := _entry(hint)) is not None and isinstance(value, Mapping):
                for place in value:
                    yield (*key, str(place))
                    yield from self._keys(entry, value[place], (*key, str(place)))

    def _check_keys(self, root: Any, tree: dict[Any, Any], kind: Any, prefix: Key, sources: Sources) -> None:
        """Give keys their present names, make empty sections {}, and raise on the first key that `kind` lacks."""
        hints = _fields(kind)
        self._rename(tree, kind, prefix, sources)
        for name in list(tree):
            key = (*prefix, str(name))
            if name not in hints:
                raise UserError(f"{sources(key)}: unknown key {'.'.join(key)!r}; {self._nearest(root, key)}")
            if (section := self._section(hints[name], key, tree[name], sources)) is not None:
                tree[name] = _as_section(tree[name], key, sources)
                self._check_keys(root, tree[name], section, key, sources)
            elif (entry := _entry(hints[name])) is not None:
                tree[name] = _as_section(tree[name], key, sources)
                for place in tree[name]:
                    below = (*key, str(place))
                    tree[name][place] = _as_section(tree[name][place], below, sources)
                    self._check_keys(root, tree[name][place], entry, below, sources)

    def _rename(self, tree: dict[Any, Any], kind: Any, prefix: Key, sources: Sources) -> None:
        for old, new in getattr(kind, "RENAMED", {}).items():
            if old in tree:
                before, after, value = (*prefix, old), (*prefix, new), tree.pop(old)
                tree[new] = _merged(value, tree[new], before, after, sources) if new in tree else value
                sources.rename(before, after)

    def _nearest(self, root: Any, key: Key) -> str:
        """What the unknown `key` was meant to be, or which keys there are."""
        section = ".".join(key[:-1])
        if (choice := self._types.get(section)) is not None:
            owners = [value for value in choice.values if key[-1] in _fields(choice.type_of(value))]
            if owners:
                return f"it is a setting of {section}.{choice.key} {' and '.join(owners)}."
        keys = list(self._keys(self._kind, root, ()))
        siblings = {known[-1]: known for known in keys if known[:-1] == key[:-1]}
        # At the top also "contrastive_margin" for contrastive.margin; a section's other keys have its name in common.
        names = {".".join(known): known for known in keys} if len(key) == 1 else siblings
        close = [names[name] for name in difflib.get_close_matches(key[-1], names, n=1, cutoff=0.5)]
        close += [known for known in keys if known[-1] == key[-1]]  # the right name in the wrong section
        if close:
            return f"did you mean {'.'.join(close[0])!r}?"
        return f"the keys there are {', '.join('.'.join(known) for known in siblings.values())}."

    def _build(self, root: Any, tree: Mapping[str, Any], kind: Any, prefix: Key, sources: Sources) -> Any:
        """The dataclass `kind` from a tree whose keys are checked; sections first."""
        values = {}
        for name, hint in _fields(kind).items():
            if name not in tree:
                continue
            key, value = (*prefix, name), tree[name]
            if (section := self._section(hint, key, value, sources)) is not None:
                value = self._build(root, value, section, key, sources)
            elif (entry := _entry(hint)) is not None:
                value = {
                    place: self._build(root, below, entry, (*key, str(place)), sources)
                    for place, below in value.items()
                }
            else:
                value = self._checked(hint, value, key, sources)
            values[name] = value
        for field in dataclasses.fields(kind):
            if field.init and field.name not in values and _is_required(field):
                expected, dotted = in_words(_fields(kind)[field.name]), ".".join((*prefix, field.name))
                raise UserError(f"{sources(prefix)}: the key {dotted} is missing; expected {expected}.")
        try:
            return kind(**values)
        except ValueError as error:  # of its __post_init__
            message, dotted = str(error), ".".join(prefix)
            begins = "" if not dotted or message.startswith(f"{dotted}.") else f"{dotted}: "
            raise UserError(f"{self._culprit(root, prefix, message, sources)}: {begins}{message}") from None

    def _checked(self, hint: Any, value: Any, key: Key, sources: Sources) -> Any:
        """The value as the field's type has it: a list as a tuple, 1 as 1.0."""
        try:
            return _adapter(hint).validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            expected = in_words(hint)
            if first["type"] == "finite_number":
                expected = expected.replace("a number", "a finite number").replace("a whole", "a finite whole")
            raise UserError(f"{sources(key)}: {'.'.join(key)} is {first['input']!r}; expected {expected}.") from None

    def _culprit(self, root: Any, section: Key, message: str, sources: Sources) -> str:
        """Where a key of `section` that `message` names was overridden, else where it stands, else the section."""
        keys = [key for key in self._keys(self._kind, root, ()) if key[: len(section)] == section and key != section]
        places = [sources(key) for key in keys if re.search(rf"\b{re.escape(key[-1])}\b", message)]
        overridden = (place for place in places if place.startswith("--set "))
        return next(overridden, places[0] if places else sources(section))


def plain(value: Any) -> Any:
    """A configuration as plain values that YAML and JSON take: dataclasses as dict, tuples as list."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def in_words(hint: Any) -> str:
    """A type in words: "a list of 2, each a whole number or null"."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if hint in words:
        return words[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(in_words(argument) for argument in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"a list, each {in_words(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {in_words(arguments[0])}"
    if origin in (dict, Mapping):
        return f"a section of names, each with {in_words(arguments[1])}"
    return "a section" if dataclasses.is_dataclass(hint) else str(hint)


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    """Name → type of what a dataclass is made of."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(hint))


def _strict(hint: Any) -> Any:
    """The type without the conversions of pydantic that hide a mistake: `true` as 1, "5 " as 5, NaN as a number."""
    plain_types = {
        int: Annotated[int, BeforeValidator(_whole_number)],
        float: Annotated[float, AllowInfNan(False), BeforeValidator(_number)],
        bool: StrictBool,
    }
    if hint in plain_types:
        return plain_types[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return typing.Union[tuple(_strict(argument) for argument in arguments)]  # noqa: UP007
    if origin in (tuple, list, dict, Mapping):
        return origin[tuple(_strict(argument) for argument in arguments)]
    if origin is typing.Literal and not any(isinstance(argument, bool) for argument in arguments):
        return Annotated[hint, BeforeValidator(_not_bool)]
    return hint


def _not_bool(value: Any) -> Any:
    """`value` itself; `true` is not one of 0, 1, 2, though it equals 1."""
    if isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _number(value: Any) -> Any:
    """`value` itself; raises ValueError for what pydantic would turn into a number but nobody writes as one."""
    if isinstance(value, str) and (value != value.strip() or "_" in value):
        raise ValueError("no number")
    return _not_bool(value)


def _whole_number(value: Any) -> Any:
    """As `_number`; 2e3, which YAML 1.1 reads as text, is the whole number that it says."""
    if isinstance(_number(value), str) and "e" in value.lower():
        number = float(value)
        return int(number) if number.is_integer() else value
    return value


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _entry(hint: Any) -> Any:
    """The dataclass that a field maps free names to, or None."""
    arguments = typing.get_args(hint)
    is_mapping = typing.get_origin(hint) in (dict, Mapping)
    return arguments[1] if is_mapping and dataclasses.is_dataclass(arguments[1]) else None


def _as_section(value: Any, key: Key, sources: Sources) -> dict[Any, Any]:
    """The keys of a section; none for an empty one."""
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{sources(key)}: {'.'.join(key)} is a section with keys of its own, not {value!r}.")
    return {} if value is None else value


def _merged(old: Any, new: Any, before: Key, after: Key, sources: Sources) -> Any:
    """What is given under an earlier name and what is given under the present one, as one; the later value holds."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = {
            name: _merged(old[name], new[name], (*before, str(name)), (*after, str(name)), sources)
            for name in old.keys() & new.keys()
        }
        return old | new | both
    if sources.number(before) == sources.number(after):
        earlier, present = ".".join(before), ".".join(after)
        raise UserError(f"{sources(before)}: {earlier} is the earlier name of {present}; give {present} only.")
    return old if sources.number(before) > sources.number(after) else new
