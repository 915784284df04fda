"""The rooms of docs/explanation/architecture.md: imports go one way, and never in a circle.

Every import counts, also those inside functions and those for type checkers: a hidden circle is a circle.
"""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS: dict[str, list[list[str]]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "neuroimagen"
]["rooms"]
"""Of each folder, and of the package itself: its rooms, from the top."""


@cache
def modules() -> dict[str, Path]:
    """Dotted name below neuroimagen → file."""
    folders = {folder for layer in LAYERS["neuroimagen"] for folder in layer}
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for folder in sorted(folders)
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name != "__init__.py"
    }


@cache
def imports() -> dict[str, frozenset[str]]:
    """Module → the modules of ours that it imports, wherever in the file."""
    return {name: frozenset(_imported(path)) for name, path in modules().items()}


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("neuroimagen."):
            base = node.module.removeprefix("neuroimagen.")
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("neuroimagen.") for alias in node.names if "neuroimagen." in alias.name)


def room(module: str, folder: str) -> str | None:
    """The room of `folder` in which a module stands; None for one outside the folder."""
    parts = module.split(".")
    if folder == "neuroimagen":
        return parts[0]
    return parts[1] if parts[0] == folder and len(parts) > 1 else None


@pytest.mark.parametrize("folder", LAYERS)
def test_arrows_between_rooms_point_down(folder: str) -> None:
    level = {name: depth for depth, layer in enumerate(LAYERS[folder]) for name in layer}
    wrong = []
    for module, targets in imports().items():
        for target in targets:
            here, there = room(module, folder), room(target, folder)
            if here is None or there is None or here == there:
                continue
            assert here in level, f"{folder}/{here} has no place among the rooms"
            if there not in level or level[there] <= level[here]:
                wrong.append(f"{module} → {target}")
    assert not wrong, "\n".join(sorted(wrong))


def test_no_module_imports_itself_round_about() -> None:
    known = modules()
    try:
        TopologicalSorter({name: targets & known.keys() for name, targets in imports().items()}).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


def test_every_import_of_ours_is_a_module_or_a_room() -> None:
    """An import of a name that a room's __init__ does not define would only fail when it is reached."""
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in modules().values()}
    unknown = {
        f"{name} → {target}"
        for name, targets in imports().items()
        for target in targets
        if target not in modules() and target not in folders
    }
    assert not unknown


def test_rooms_are_not_crowded() -> None:
    """More than 16 modules in a folder, and a newcomer does not find the one."""
    counts: dict[Path, int] = {}
    for path in modules().values():
        counts[path.parent] = counts.get(path.parent, 0) + 1
    crowded = {str(path.relative_to(ROOT)): n for path, n in counts.items() if n > 16}
    crowded.pop("benchmarks", None)  # one file a benchmark, beside the parts they share; not installed
    assert not crowded
