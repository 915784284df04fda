"""Names of events as people write them."""

import pyarrow as pa
import pytest

from neuroimagen.data_shards.sources.recordings.tables.event_names import event_key, event_keys


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("1", "1"),
        (" 1 ", "1"),
        ("01", "1"),
        ("1.0", "1"),
        ("+1", "1"),
        (1, "1"),
        ("0", "0"),
        ("-0", "0"),
        ("-07", "-7"),
        ("1.5", "1.5"),
        ("1.", "1"),
        ("10", "10"),
        ("S  1", "S 1"),
        ("\tdog\n", "dog"),
        ("1e3", "1e3"),
        ("0x1", "0x1"),
    ],
)
def test_numbers_and_blanks(text: object, key: str) -> None:
    assert event_key(text) == key
    assert event_keys(pa.chunked_array([["x"], [str(text), "x", str(text)]])).tolist() == ["x", key, "x", key]
