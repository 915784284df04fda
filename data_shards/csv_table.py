"""Tables that users write: CSV, or by their name TSV, with a header."""

import csv
from collections.abc import Sequence
from pathlib import Path

from neuroimagen.data_shards.errors import UserError
from neuroimagen.data_shards.schema import SPLITS


def read_csv_table(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> tuple[list[dict[str, str]], set[str]]:
    """The rows of a table, and which columns it has.

    Raises UserError naming column or line if a required column is missing or empty, or a `split` is none of ours.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            rows = list(reader)
            names = set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if missing := [name for name in required if name not in names]:
        more = f", and may have {', '.join(optional)}" if optional else ""
        raise UserError(f"{path} has no column {missing[0]!r}; it needs {', '.join(required)}{more}.")
    for line, row in enumerate(rows, start=2):
        if empty := [name for name in required if not row[name]]:
            raise UserError(f"{path}, line {line}: {empty[0]} is empty.")
        if "split" in names and row["split"] not in SPLITS:
            raise UserError(f"{path}, line {line}: split {row['split']!r} is not one of {', '.join(SPLITS)}.")
    return rows, names
