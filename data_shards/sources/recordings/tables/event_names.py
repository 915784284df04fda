"""Names of events as people write them: "1", " 1", "01" and "1.0" are the same trigger."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = r"^([+-]?)0*(\d+)(\.0*)?$"


def event_key(text: object) -> str:
    """The form in which events are compared: outer blanks removed, inner ones single, whole numbers without 0s."""
    stripped = re.sub(r"\s+", " ", str(text)).strip()
    if found := re.match(_NUMBER, stripped):
        sign = "-" if found[1] == "-" and int(found[2]) else ""
        return sign + str(int(found[2]))
    return stripped


def event_keys(texts: "pa.ChunkedArray | pa.Array") -> np.ndarray:
    """`event_key` of a column: each different text is looked at once."""
    encoded = pc.dictionary_encode(texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts)
    keys = np.array([event_key(text) for text in encoded.dictionary.to_pylist()], dtype=object)
    return keys[encoded.indices.to_numpy(zero_copy_only=False)]
