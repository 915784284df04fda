"""How an audit lists names."""

import pytest

from neuroimagen.data_shards.dataset.findings import listed


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (1, "a"), (5, "a, b, c, d, e"), (6, "a, b, c, d, e and 1 more"), (9, "a, b, c, d, e and 4 more")],
)
def test_five_names_and_the_number_of_the_others(count: int, text: str) -> None:
    assert listed("abcdefghi"[:count]) == text
