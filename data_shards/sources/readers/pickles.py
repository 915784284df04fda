"""Reads pickles that hold NumPy arrays, lists, dictionaries, tuples, text and numbers, and refuses all others.

Published data are often pickles: `pickle.dump` into a file named .npy, `np.save` of a dictionary, `torch.save` of
arrays. Loading a pickle runs what it asks for. Here

- the instructions are read first, and none of them may announce more bytes than the file has;
- large arrays are not read but mapped from the file: their bytes are taken out of the pickle, with the offset in place;
- names resolve to the few objects of this module that build arrays, never to NumPy's own, which allocate what a pickle
  tells them to and read beyond an array's end where a structured dtype says so.
"""

import io
import math
import mmap
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import open_file

MAX_INSTRUCTIONS = 16 << 20
"""A list item takes one to three; an array takes about twenty, whatever its size."""
MAX_ITEM_BYTES = 1 << 20
"""Longest text item or bytes item of an array's dtype."""
MAPPED_BYTES = 1 << 20
"""Arrays of at least this size are mapped from the file."""
_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_REFUSED = frozenset(
    ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "LONG4")
)  # objects outside the file, and numbers of thousands of digits
_BYTES = frozenset(("BINBYTES", "BINBYTES8", "BYTEARRAY8"))
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|16)|c(8|16)|[SU]\d{1,8}|O8?)")


class RefusedError(pickle.UnpicklingError):
    """The pickle asks for something else than arrays and plain containers; the text names it."""


def load_pickle(path: Path, *, offset: int = 0, size: int | None = None, encoding: str = "ASCII") -> Any:
    """What the pickle at `offset` of a file holds. Arrays of 1 MiB and more are read-only maps of the file.

    encoding: of the byte strings that Python 2 wrote; latin1 for those that hold arrays. Raises UserError, naming the
    file, for a pickle that is damaged or asks for anything but arrays and plain containers.
    """
    try:
        with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end = len(content) if size is None else min(offset + size, len(content))
            stream, payloads = _without_large_bytes(content, offset, end)
        loaded = _Unpickler(io.BytesIO(stream), [(path, *payload) for payload in payloads], encoding=encoding).load()
        return _plain(loaded, {})
    except RefusedError as error:
        raise UserError(
            f"{path} is refused: its pickle asks for {error}, and loading it would run code. Only NumPy arrays, lists, "
            "dictionaries, text and numbers are accepted. Get the file from its publisher."
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except RecursionError:
        raise UserError(f"{path} is refused: its lists and dictionaries are nested too deeply.") from None
    except (
        pickle.UnpicklingError,
        ValueError,  # an empty file cannot be mapped
        EOFError,
        TypeError,
        AttributeError,
        LookupError,
        ArithmeticError,
        MemoryError,
    ) as error:
        reason = str(error)[:160] or "it ends too early"
        raise UserError(f"{path} is not a complete pickle of arrays: {reason}. Get the file again.") from None


def _without_large_bytes(content: mmap.mmap, start: int, end: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The pickle with numbers in place of its large bytes, and offset and size of those. Checks every length."""
    stream, payloads = bytearray(), list[tuple[int, int]]()
    place, count = start, 0
    while True:
        if place >= end:
            raise EOFError
        opcode = _OPCODES.get(content[place])
        if opcode is None:
            raise ValueError(f"byte {place} is no instruction of a pickle")
        count += 1
        if count > MAX_INSTRUCTIONS:
            raise ValueError(f"it holds more than {MAX_INSTRUCTIONS:,} items beside its arrays")
        if opcode.name in _REFUSED:
            raise RefusedError(f"{opcode.name} (byte {place})")
        behind = place + 1
        length = 0 if opcode.arg is None else opcode.arg.n
        if length == pickletools.UP_TO_NEWLINE:
            for _ in range(2 if opcode.name in ("GLOBAL", "INST") else 1):
                behind = content.find(b"\n", behind, end) + 1
                if behind == 0:
                    raise EOFError
        elif length >= 0:
            behind += length
        else:
            width = _LENGTH_BYTES[length]
            if behind + width > end:
                raise EOFError
            length = int.from_bytes(content[behind : behind + width], "little")
            behind += width + length
            if behind <= end and opcode.name in _BYTES and length >= MAPPED_BYTES:
                stream += b"J" + len(payloads).to_bytes(4, "little") + b"Q"  # BININT number, BINPERSID
                payloads.append((behind - length, length))
                place = behind
                continue
        if behind > end:
            raise EOFError
        if opcode.name in ("PUT", "LONG_BINPUT"):
            text = content[place + 1 : behind]
            if (int(text) if opcode.name == "PUT" else int.from_bytes(text, "little")) > count:
                raise ValueError(f"byte {place} sets an object aside under a number that no pickler writes")
        if opcode.name != "FRAME":  # frames say how to read the file; they would be wrong by now
            stream += content[place:behind]
        if opcode.name == "STOP":
            return bytes(stream), payloads
        place = behind


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, payloads: list[tuple[Path, int, int]], *, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self._payloads = payloads

    def persistent_load(self, number: Any) -> "_Mapped":
        return _Mapped(*self._payloads[number])

    def find_class(self, module: str, name: str) -> Any:
        known = _NAMES.get((re.sub(r"^numpy\.core\b", "numpy._core", module), name))
        if known is None:
            raise RefusedError(f"{module}.{name}")
        return known()


class _Mapped:
    """Bytes that stay in the file."""

    __slots__ = ("offset", "path", "size")

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self.path, self.offset, self.size = path, offset, size

    def __len__(self) -> int:
        return self.size

    def __setstate__(self, state: Any) -> None:
        raise TypeError("the state of bytes is set")


class _Name:
    """What a name in a pickle stands for. It has no attributes that a pickle could set."""

    __slots__: ClassVar[tuple[str, ...]] = ()

    def __setstate__(self, state: Any) -> None:
        raise TypeError("the state of a function is set")


class _NdarrayName(_Name):
    __slots__ = ()


class _Dtype:
    """A dtype of numbers, text or objects, in the two steps in which pickles make one."""

    __slots__ = ("value",)

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            raise ValueError(f"dtype {str(text)[:40]!r} is not one of numbers or text")
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 7 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a dtype is incomplete")
        if any(part is not None for part in state[2:5]):
            raise ValueError("a structured dtype")
        if self.value.kind in "SU" and state[5] != self.value.itemsize:
            raise ValueError("a dtype's size differs from its name")
        self.value = self.value.newbyteorder(state[1])


class _MakeDtype(_Name):
    __slots__ = ()

    def __call__(self, text: Any, *_: Any) -> _Dtype:
        return _Dtype(text)


class _Array:
    """An array that is under construction until its state has come."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        if self.value is not None or not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array's state")
        _, shape, dtype, fortran, content = state
        self.value = _array(content, dtype, shape, "F" if fortran else "C")


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or dtype.value.itemsize > MAX_ITEM_BYTES:
        raise ValueError("an array's dtype")
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array's shape")
    if order not in ("C", "F"):
        raise ValueError("an array's order")
    count = math.prod(shape)
    if dtype.value.kind == "O":
        if not isinstance(content, list) or len(content) != count:
            raise ValueError(f"an array of {shape} objects that has others")
        objects = np.empty(count, dtype=object)
        objects[:] = content if count else None
        return objects.reshape(shape, order=order)
    if isinstance(content, str):  # Python 2
        content = content.encode("latin1")
    if not isinstance(content, bytes | bytearray | _Mapped) or len(content) != count * dtype.value.itemsize:
        raise ValueError(f"an array of shape {shape} whose bytes are {len(content)}")
    if isinstance(content, _Mapped):
        return np.memmap(content.path, dtype.value, "r", content.offset, shape, order)
    return np.frombuffer(content, dtype.value).reshape(shape, order=order).copy(order="K")


class _Reconstruct(_Name):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, _: Any) -> _Array:
        if not isinstance(kind, _NdarrayName) or shape != (0,):
            raise ValueError("an array that is made otherwise than NumPy makes it")
        return _Array()


class _FromBuffer(_Name):
    __slots__ = ()

    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        return _Array(_array(content, dtype, shape, order))


class _Scalar(_Name):
    __slots__ = ()

    def __call__(self, dtype: Any, content: Any) -> Any:
        if isinstance(dtype, _Dtype) and dtype.value.kind == "O":
            return content
        return _array(content, dtype, (), "C")[()]


class _Encode(_Name):
    """The one use that pickles of protocol 2 make of codecs.encode: bytes as text."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise RefusedError(f"codec {encoding!r}")
        return text.encode("latin1")


class _NoBytes(_Name):
    """The one use that pickles of protocol 2 make of bytes()."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


_NAMES: dict[tuple[str, str], type[_Name]] = {
    ("numpy", "ndarray"): _NdarrayName,
    ("numpy", "dtype"): _MakeDtype,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
    ("_codecs", "encode"): _Encode,
    ("__builtin__", "bytes"): _NoBytes,
    ("builtins", "bytes"): _NoBytes,
}


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with finished arrays; containers are changed in place, each once, so that cycles end."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return value
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, list | dict):
        done[id(value)] = value
        if isinstance(value, list):
            value[:] = [_plain(item, done) for item in value]
            return value
        for key in value:
            if not (key is None or isinstance(key, bool | int | float | str | bytes | np.generic)):
                raise ValueError(f"a dictionary's key is {type(key).__name__}")
            value[key] = _plain(value[key], done)
        return value
    if isinstance(value, tuple):
        # `done` keeps what it knows by its address alive as long as the pickle itself does.
        return done.setdefault(id(value), tuple(_plain(item, done) for item in value))
    if isinstance(value, _Array) and value.value is not None:
        done[id(value)] = array = value.value
        if array.dtype.kind == "O":
            for place, item in np.ndenumerate(array):
                array[place] = _plain(item, done)
        return array
    raise RefusedError(f"{type(value).__name__.strip('_')} as a value")
