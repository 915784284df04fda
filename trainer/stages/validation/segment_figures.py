"""Validation figures segment by segment: what a paired comparison of two runs needs beside their means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.reading import content_of

ROW, STIMULUS = "row", "stimulus"
"""The columns of the file beside those of the figures: the segment's row of the index, and its stimulus's row."""


@dataclass(frozen=True, kw_only=True)
class SegmentFigures:
    """Figures of N validation segments."""

    rows: Integers
    """Rows of the index, [N]."""
    stimuli: Integers
    """Rows of their stimuli, [N]."""
    values: Mapping[str, Floats]
    """Figure → its value for every segment, [N]."""

    def means(self) -> dict[str, float]:
        """Figure → its mean over the segments."""
        return {name: float(np.mean(values)) for name, values in self.values.items()}

    def sorted(self) -> Self:
        """The same in ascending order of the rows."""
        order = np.argsort(self.rows, kind="stable")
        return type(self)(
            rows=self.rows[order],
            stimuli=self.stimuli[order],
            values={name: values[order] for name, values in self.values.items()},
        )

    def write(self, path: Path) -> None:
        """Write a Parquet file with one row a segment."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {ROW: self.rows.astype(np.int64), STIMULUS: self.stimuli.astype(np.int64)}
        columns |= {name: np.asarray(values, dtype=np.float64) for name, values in self.values.items()}
        pq.write_table(pa.table(columns), path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` has written. Raises UserError if the file is damaged."""
        from neuroimagen.data_shards.format.parquet import read_parquet_table
        from neuroimagen.data_shards.format.tables import numpy_column

        with content_of(f"read {path}", remedy="Remove it."):
            table = read_parquet_table(path)
            columns = {name: numpy_column(table, name) for name in table.column_names}
            return cls(rows=columns.pop(ROW), stimuli=columns.pop(STIMULUS), values=columns)


def joined(parts: Sequence[SegmentFigures]) -> SegmentFigures:
    """The segments of all parts, which have the same figures."""
    return SegmentFigures(
        rows=np.concatenate([part.rows for part in parts]),
        stimuli=np.concatenate([part.stimuli for part in parts]),
        values={name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
    )
