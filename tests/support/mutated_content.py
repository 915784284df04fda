"""How a file's content is changed: bytes, values of JSON, words of text, and columns, arrays and tensors of the binary
formats, which stay readable as such: random bytes alone seldom get past a checksum or a header.
"""

import io
import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**11, 10**400, 1e308, -1e308, float("nan"), float("inf"), 0.5),
    *("", "x", "\ud800", "\x00", "\x1b[2J", "<script>alert(1)</script>", "../../etc/passwd", "/dev/zero", "9" * 5000),
    *([], {}, [[]], {"a": {}}, [None] * 1000, "é" * 100_000),
)


def deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    choice = rng.randrange(7)
    data = bytearray(content)
    place = rng.randrange(len(data) + 1)
    if choice == 0:
        return bytes(data[:place])
    if choice == 1:
        for _ in range(rng.randint(1, 8)):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)
    if choice == 2:
        return bytes(data[:place]) + rng.randbytes(rng.choice([1, 8, 4096])) + bytes(data[place:])
    if choice == 3:
        length = rng.choice([1, 4, 8])
        data[place : place + length] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * length
        return bytes(data)
    if choice == 4:
        return bytes(data[:place]) + bytes(data[place // 2 : place]) * rng.choice([1, 10]) + bytes(data[place:])
    if choice == 5:
        return rng.choice([b"", b"\x80\x04.", b"PK\x03\x04", b"[" * 100_000, b"\xff\xfe", b"null", b"[]", b"{}"])
    return content + content


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """A JSON value with one entry replaced, removed or added."""
    places: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        keys = (
            list(node) if isinstance(node, dict) else list(range(min(len(node), 50))) if isinstance(node, list) else []
        )
        places += [(node, key) for key in keys]
        todo += [node[key] for key in keys]
    if not places or rng.random() < 0.03:
        return rng.choice([*ODD_VALUES, deep(3000), deep(500)])
    node, key = rng.choice(places)
    action = rng.randrange(10)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[rng.choice(["unknown", "", "__class__", "\ud800"])] = rng.choice(ODD_VALUES)
    elif action == 2 and isinstance(node, list):
        node.insert(key, rng.choice(ODD_VALUES))
    elif action == 3:
        node[key] = deep(rng.choice([100, 900]))
    else:
        node[key] = rng.choice(ODD_VALUES)
    return tree


def mutate_text(text: str, rng: random.Random) -> str:
    """A text with one word replaced by an odd one."""
    lines = text.splitlines() or [""]
    number = rng.randrange(len(lines))
    words = lines[number].split(" ")
    odd = rng.choice(ODD_VALUES)
    word = odd if isinstance(odd, str) else json.dumps(odd)
    more = [
        "!!float x",
        "&a [*a]",
        "2001-99-99",
        "*unknown",
        "<<: [1]",
        "? [a]",
        "!!python/object:os.system x",
        "\t",
        ",",
    ]
    words[rng.randrange(len(words))] = rng.choice([word, *more])
    lines[number] = " ".join(words)
    return "\n".join(lines) + "\n"


def dump(tree: Any) -> bytes:
    with suppress(RecursionError):
        return json.dumps(tree, indent=1).encode("utf-8", "surrogatepass")
    return b"[" * 3000 + b"]" * 3000


def mutate_parquet(content: bytes, rng: random.Random) -> bytes:
    """A table with one column missing, of another type, with odd values, or with other rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    place = rng.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place)
    action = rng.randrange(7)
    if action == 0:
        table = table.drop_columns([name])
    elif action == 1:
        table = table.append_column(rng.choice([name, "unknown", ""]), column)
    elif action == 2:
        table = table.take(pa.array([rng.randrange(len(table)) for _ in range(rng.choice([0, 1, len(table)]))]))
    elif action == 3:
        table = table.set_column(place, name, pa.array([None] * len(table), column.type))
    else:
        odd = rng.choice([-1, 2**31, 2**62, 0, float("nan"), float("inf"), 1e300, "", "x", "../../etc/passwd", b"\xff"])
        values = column.to_pylist()
        places = range(len(values)) if rng.random() < 0.3 else [rng.randrange(len(values))]
        changed = [odd if row in places else value for row, value in enumerate(values)]
        try:
            made = pa.array(changed, column.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            made = pa.array([odd] * len(values))
        table = table.set_column(place, name, made)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def mutate_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """An array of another shape or type, or with odd values."""
    action = rng.randrange(6)
    if action == 0:
        return array.reshape(-1)
    if action == 1:
        return array[tuple(slice(0, rng.randint(0, size)) for size in array.shape)]
    if action == 2:
        return np.asarray(array[np.newaxis] if rng.random() < 0.5 else array.T)
    if action == 3:
        kind = rng.choice(["f2", "f8", "i1", "u8", "c16", "?", "S3", "U3", "M8[s]", ">f4"])
        with np.errstate(all="ignore"), suppress(TypeError, ValueError):
            return array.astype(kind)
        return array[..., :1]
    changed = np.array(array)
    if changed.size and changed.dtype.kind in "fiu":
        odd = [float("nan"), float("inf"), -1e30, 1e30] if changed.dtype.kind == "f" else [-1, 2**31 - 1, 0]
        place = slice(None) if rng.random() < 0.3 else rng.randrange(changed.size)
        with np.errstate(all="ignore"), suppress(OverflowError):
            changed.reshape(-1)[place] = rng.choice(odd)
    return changed


NPY_HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 0, 0), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2.5,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 2000 + ")" * 2000 + ", }",
    "{'descr': [('a', '<f4')], 'fortran_order': True, 'shape': (3,), }",
    "{'descr': '|V1000000000', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<f4', 'shape': (3,), }",
    "__import__('os').getcwd()",
    "9" * 5000,
)


def mutate_npy(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        header = rng.choice(NPY_HEADERS).encode() + b"\n"
        return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + content[128:]
    buffer = io.BytesIO()
    np.save(buffer, mutate_array(np.load(io.BytesIO(content), allow_pickle=False), rng))
    return buffer.getvalue()


def mutate_npz(content: bytes, rng: random.Random) -> bytes:
    with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    name = rng.choice(sorted(arrays))
    array = arrays.pop(name)
    if rng.random() < 0.8:
        arrays[rng.choice([name, name, name, "unknown", "../x"])] = mutate_array(array, rng)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def mutate_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Tensors that are missing, renamed, of another shape or type, or odd; or an odd header."""
    from safetensors.numpy import load, save

    if rng.random() < 0.4:
        size = int.from_bytes(content[:8], "little")
        header = dump(mutate_tree(json.loads(content[8 : 8 + size]), rng))
        return len(header).to_bytes(8, "little") + header + content[8 + size :]
    tensors = load(content)
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    if rng.random() < 0.8:
        changed = mutate_array(tensor, rng)
        with suppress(KeyError, ValueError, TypeError):
            return save({**tensors, rng.choice([name, name, name, "unknown", ""]): np.ascontiguousarray(changed)})
    return save(tensors)


BINARY: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".parquet": mutate_parquet,
    ".npy": mutate_npy,
    ".npz": mutate_npz,
    ".safetensors": mutate_safetensors,
}
TEXT = (".yaml", ".csv", ".tsv", ".txt", ".vhdr", ".vmrk", "")
JSON = (".json", ".jsonl", ".status")


def mutate(path: Path, rng: random.Random) -> str:
    """Change a file; returns what was done."""
    content = path.read_bytes()
    if rng.random() < 0.04:
        path.unlink()
        if rng.random() < 0.4:
            os.mkfifo(path)
            return "FIFO"
        if rng.random() < 0.5:
            path.mkdir()
            return "folder"
        return "missing"
    if path.suffix in BINARY and rng.random() < 0.7:
        with suppress(Exception):  # pickled arrays, empty tables and the like are changed byte by byte
            path.write_bytes(BINARY[path.suffix](content, rng))
            return "content"
    structured = path.suffix in JSON or path.name == "COMPLETE"
    if structured and rng.random() < 0.8:
        with suppress(ValueError):
            lines = content.splitlines() if path.suffix == ".jsonl" else [content]
            number = rng.randrange(len(lines))
            lines[number] = dump(mutate_tree(json.loads(lines[number]), rng)).replace(b"\n", b" ")
            path.write_bytes(b"\n".join(lines))
            return "value"
    if path.suffix in TEXT and rng.random() < 0.8:
        with suppress(UnicodeDecodeError):
            path.write_bytes(mutate_text(content.decode(), rng).encode("utf-8", "surrogatepass"))
            return "word"
    path.write_bytes(mutate_bytes(content, rng))
    return "bytes"
