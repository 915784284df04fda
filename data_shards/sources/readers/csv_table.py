"""Tables that users write: CSV, or TSV if the name ends so, with a header."""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import open_file
from neuroimagen.data_shards.format.schema import SPLITS

_OTHER_NAMES = {
    **dict.fromkeys(("sub", "subj", "subject id", "participant", "participant id", "person"), "subject"),
    **dict.fromkeys(("partition", "subset"), "split"),
    **dict.fromkeys(("ses", "session id"), "session"),
    **dict.fromkeys(("onset", "onset s"), "onset_s"),
}
"""What other tools call a column, in small letters, with a space for '_'."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvTable:
    """The rows of a table."""

    path: Path
    rows: list[dict[str, str]]
    """One dictionary column → text per row; no spaces around a text."""
    names: frozenset[str]
    """Names of the columns, also of those that are not used."""
    notes: tuple[str, ...] = ()
    """What was not used or was changed, one sentence each."""

    def column(self, name: str, default: str = "") -> tuple[str, ...]:
        """The texts of a column; `default` in every row where the table does not have it."""
        return tuple(row[name] for row in self.rows) if name in self.names else (default,) * len(self.rows)

    def whole_numbers(self, name: str, default: int) -> np.ndarray:
        """A column as int64, also where a spreadsheet wrote 3 as 3.0. Raises UserError naming the line."""
        values = np.full(len(self.rows), default, dtype=np.int64)
        for place, text in enumerate(self.column(name) if name in self.names else ()):
            if not (match := re.fullmatch(r"(-?\d{1,9})(\.0*)?", text)):
                raise UserError(f"{self.path}, line {place + 2}: {name} {text!r} is not a whole number.")
            values[place] = int(match[1])
        return values

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64; NaN where it is empty or absent. Raises UserError naming the line."""
        values = np.full(len(self.rows), np.nan)
        for place, text in enumerate(self.column(name)):
            try:
                values[place] = float(text or "nan")
            except ValueError:
                values[place] = math.inf
            if math.isinf(values[place]):
                raise UserError(f"{self.path}, line {place + 2}: {name} {text!r} is not a number.")
        return values


def read_csv_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> CsvTable:
    """Read a table. Spaces around texts are removed, and columns that are not used are noted.

    Raises UserError naming column or line if a required column is missing or empty, a line has more or fewer fields
    than the header, a `split` is not train, val or test, or a column that is not known has a name close to that of an
    optional one: a misspelt `split` that is ignored would give a random split.
    """
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it in that encoding.") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    header = [name.strip() for name in lines[0]] if lines else []
    while header and not header[-1]:
        header.pop()
    check_header(path, header, required, optional)
    rows = []
    padded: list[tuple[int, str]] = []
    for line, fields in enumerate(lines[1:], start=2):
        if not fields:
            continue
        stripped = [field.strip() for field in fields]
        if any(stripped[len(header) :]) or len(stripped) < len(header):
            raise UserError(
                f"{path}, line {line}: it has {len(fields)} fields, the first line has {len(header)}. Put texts that "
                "hold the separator in quotation marks."
            )
        padded += [(line, field) for field in fields[: len(header)] if field != field.strip()]
        rows.append(dict(zip(header, stripped, strict=False)))
        if empty := [name for name in required if not rows[-1][name]]:
            raise UserError(f"{path}, line {line}: {empty[0]} is empty.")
        if "split" in header and "split" in optional and rows[-1]["split"] not in SPLITS:
            raise UserError(f"{path}, line {line}: split {rows[-1]['split']!r} is not one of {', '.join(SPLITS)}.")
    notes = []
    if unused := [name for name in header if name not in {*required, *optional}]:
        notes.append(f"{path}: not used: column{'s' * (len(unused) > 1)} {', '.join(map(repr, unused))}")
    if padded:
        line, field = padded[0]
        notes.append(f"{path}: spaces around {len(padded)} texts are removed, first {field!r} in line {line}")
    return CsvTable(path=path, rows=rows, names=frozenset(header), notes=tuple(notes))


def check_header(path: Path | str, header: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> None:
    """Raise UserError for a table that lacks a column, has one twice, or has one that a known one may be meant by."""
    if missing := [name for name in required if name not in header]:
        more = f", and may have {', '.join(optional)}" if optional else ""
        found = f"its first line is {', '.join(map(repr, header))}" if header else "it is empty"
        raise UserError(f"{path} has no column {missing[0]!r}; it needs {', '.join(required)}{more}; {found}.")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(f"{path} has two columns {twice[0]!r}. Remove one.")
    absent = [name for name in optional if name not in header]
    for name in sorted(set(header) - {*required, *optional}):
        plain = re.sub(r"[\s_-]+", " ", name.lower())
        near = (
            [_OTHER_NAMES[plain]] if _OTHER_NAMES.get(plain) in absent else get_close_matches(plain, absent, cutoff=0.8)
        )
        if near:
            raise UserError(f"{path}: column {name!r} is not known; did you mean {near[0]!r}? Rename or remove it.")
