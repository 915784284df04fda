"""Names in the order in which people count."""

from neuroimagen.data_shards.common.natural_order import natural_key


def test_numbers_count_as_numbers() -> None:
    names = ["ses-10", "ses-2", "a", "10", "9", "ses-2b", "B", "ses-02"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "B", "ses-02", "ses-2", "ses-2b", "ses-10"]


def test_names_that_differ_have_different_keys() -> None:
    names = ["a", "A", "01", "1", "", "1a", "a1"]
    assert len({natural_key(name) for name in names}) == len(names)
