"""Tables that users write: CSV, or TSV if the name ends so, with a header."""

import csv
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import SPLITS


def read_csv_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> tuple[list[dict[str, str]], set[str]]:
    """The rows of a table, and the names of its columns.

    Raises UserError naming column or line if a required column is missing or empty, a `split` is not train, val or
    test, or a column's name is close to that of an optional one: a misspelt `split` that is ignored would give a random
    split.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            rows = list(reader)
            header = list(reader.fieldnames or ())
            names = set(header)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it in that encoding.") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    if missing := [name for name in required if name not in names]:
        more = f", and may have {', '.join(optional)}" if optional else ""
        found = f"its first line is {', '.join(map(repr, header))}" if header else "it is empty"
        raise UserError(f"{path} has no column {missing[0]!r}; it needs {', '.join(required)}{more}; {found}.")
    for name in sorted(names - {*required, *optional}):
        near = get_close_matches(name.strip().lower(), [each for each in optional if each not in names], cutoff=0.8)
        if near:
            raise UserError(f"{path}: column {name!r} is not known; did you mean {near[0]!r}? Rename it.")
    for line, row in enumerate(rows, start=2):
        if empty := [name for name in required if not row[name]]:
            raise UserError(f"{path}, line {line}: {empty[0]} is empty.")
        if "split" in names and row["split"] not in SPLITS:
            raise UserError(f"{path}, line {line}: split {row['split']!r} is not one of {', '.join(SPLITS)}.")
    return rows, names
