"""Files of strangers: regular ones only, of bounded size and depth; what wrong content raises is one line."""

import json
import os
import socket
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.common.limits import MAX_JSON_DEPTH
from neuroimagen.data_shards.common.reading import (
    content_of,
    held_inside,
    open_file,
    parse_json,
    read_bytes,
    read_json_object,
    read_text,
    reason,
    require_file,
)


def test_a_fifo_a_device_a_socket_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    with listener:
        for name in ("fifo", "socket", "folder", "zero", "missing"):
            for take in (open_file, require_file):
                with pytest.raises(OSError, match=r"not a file|No such"):
                    take(tmp_path / name)
    with pytest.raises(OSError, match="a FIFO, not a file"):
        read_bytes(tmp_path / "fifo")


def test_size_is_bounded_and_line_ends_are_alike(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\r\nb\rc\n")
    assert read_text(path) == "a\nb\nc\n"
    assert read_bytes(path, limit=7) == path.read_bytes()
    with pytest.raises(OSError, match="larger than 6 bytes"):
        read_bytes(path, limit=6)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_json_is_bounded_in_depth(tmp_path: Path) -> None:
    assert parse_json(nested(MAX_JSON_DEPTH)) == json.loads(nested(MAX_JSON_DEPTH))
    for depth in (MAX_JSON_DEPTH + 1, 900, 100_000):
        with pytest.raises(ValueError, match="nested"):
            parse_json(nested(depth))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="list where an object"):
        read_json_object(tmp_path / "list.json")


def test_whole_numbers_that_no_float_holds_are_refused() -> None:
    assert parse_json('{"limit": 1000000000000000019884624838656, "negative": -3}') == {
        "limit": int(1e30),
        "negative": -3,
    }
    for digits in (400, 10_000):
        with pytest.raises(ValueError, match=f"a whole number has {digits} digits"):
            parse_json(f'{{"seconds": {"9" * digits}}}')


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", "a/../../secret", "link/secret", "a\0b"])
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="outside"):
        held_inside(folder, name)


def test_a_run_that_is_reached_by_a_link_holds_its_files(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "run").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "scratch" / "run")
    assert held_inside(tmp_path / "run", "full/0.png") == tmp_path / "run" / "full/0.png"


@pytest.mark.parametrize(
    "error", [KeyError("steps"), TypeError("a\nb"), RuntimeError(), MemoryError(), OSError(28, "full")]
)
def test_whatever_content_raises_is_one_line_that_names_it(error: Exception) -> None:
    with pytest.raises(UserError) as caught, content_of("read x.json", remedy="Remove it."):
        raise error
    text = str(caught.value)
    assert text.startswith("cannot read x.json: ")
    assert text.endswith(". Remove it.")
    assert "\n" not in text
    assert caught.value.__cause__ is error


def test_errors_for_users_and_interruptions_pass() -> None:
    for error in (UsageError("choose"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, content_of("read", remedy=""):
            raise error
        assert caught.value is error
    assert reason(KeyError("x")) == "'x' is missing"
