"""Labels of subjects become numbers: their own where they are numbers, stated ones where they are not."""

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.subjects import mapping_notes, number_subjects


def test_numbers_keep_their_value_and_labels_get_the_free_ones() -> None:
    numbers, table = number_subjects(["sub-07", "07 ", "sub-A10", "A2", "1", "0", "pilot", "A2"])
    assert numbers.tolist() == [7, 7, 3, 2, 1, 0, 4, 2]
    assert table == {"0": 0, "1": 1, "A2": 2, "A10": 3, "pilot": 4, "07": 7}


def test_the_table_does_not_depend_on_the_order_of_rows() -> None:
    labels = ["B", "A", "3", "2147483648", "C"]
    assert number_subjects(labels)[1] == number_subjects(labels[::-1])[1]
    assert number_subjects(["2147483647"])[1] == {"2147483647": 2147483647}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["1", ""], "subject '' is empty"),
        (["1", "sub-"], "subject 'sub-' is empty"),
        (["1", "01"], "'1' and '01' would both get number 1"),
        (["2.0", "2"], "would both get number 2"),
        (["-3"], "subject '-3' is negative"),
    ],
)
def test_labels_that_could_be_two_people_or_none_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        number_subjects(labels)


def test_only_labels_that_are_no_numbers_are_noted() -> None:
    assert mapping_notes(number_subjects(["1", "02"])[1]) == []
    assert "A is 1, B is 3" in mapping_notes(number_subjects(["A", "B", "2"])[1])[0]
