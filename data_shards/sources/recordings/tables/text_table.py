"""Tables as text, whole columns at a time: a million rows take a second."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import open_file


def read_text_table(path: Path) -> pa.Table:
    """A CSV, or by its name a TSV, with every column as text, outer blanks removed; a line must have every field.

    Raises UserError naming file and line.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # RFC 4180 quotes belong to CSV; in a TSV of BIDS a quotation mark is a character like others.
    is_tsv = delimiter == "\t"
    parse = pa_csv.ParseOptions(delimiter=delimiter, quote_char=False if is_tsv else '"', newlines_in_values=not is_tsv)
    try:
        with open_file(path) as file:
            first = file.readline().decode("utf-8-sig").rstrip("\r\n")
        names = [name.strip().strip('"').strip() for name in first.split(delimiter)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{path} has two columns {twice[0]!r}; rename one.")
        table = pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(column_names=names, skip_rows=1),
            parse_options=parse,
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it in that encoding.") from None
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, pa.ArrowInvalid) and "Empty CSV" in str(error):
            return pa.table({name: pa.array([], pa.string()) for name in names})
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    return pa.table({name: pc.utf8_trim_whitespace(table[name]) for name in names})


def read_columns(path: Path) -> dict[str, list[str]]:
    """A short table: column → its texts."""
    return {str(name): values for name, values in read_text_table(path).to_pydict().items()}
