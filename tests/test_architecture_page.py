"""docs/explanation/architecture.md names modules and functions that exist, and every room."""

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`((?:data_shards|kernels|trainer|launch|tune)\.[\w.]+)`", PAGE)))


def test_the_walk_names_something() -> None:
    assert len(NAMES) > 20


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_is_there(name: str) -> None:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module("neuroimagen." + ".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return
    pytest.fail(f"there is no module for {name}")


def test_every_room_is_described() -> None:
    rooms = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["neuroimagen"]["rooms"]
    described = PAGE[PAGE.index("## The rooms") :]
    small = {"config", "driver", "promotion", "ray_session", "registry", "runner", "space"}  # modules of tune
    missing = [
        room
        for folder, layers in rooms.items()
        if folder != "neuroimagen"
        for layer in layers
        for room in layer
        if f"`{room}`" not in described and room not in small
    ]
    assert not missing


def test_the_drawing_is_of_the_rooms_as_they_are() -> None:
    spec = importlib.util.spec_from_file_location("draw_rooms", ROOT / "docs" / "images" / "draw_rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.draw() == (ROOT / "docs" / "images" / "rooms.svg").read_text(encoding="utf-8")
