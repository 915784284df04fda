"""Images and classes of trials from their names; test_eeg1.py and test_meg.py cut whole recordings."""

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.things.cut_recordings import table_of_images


def test_either_slash_and_any_folder_before_the_concept() -> None:
    names = ["images\\aardvark\\aardvark_01b.jpg", "x/y/00002_abacus/abacus_02s.jpg", "bat1/bat1_03s.jpg"]
    table = table_of_images(names, where="events.tsv").columns
    assert table["image"].to_pylist() == [
        "aardvark/aardvark_01b.jpg",
        "00002_abacus/abacus_02s.jpg",
        "bat1/bat1_03s.jpg",
    ]
    assert len(set(table["class"].to_pylist())) == 3
    assert table["class"].to_pylist()[:2] == ["aardvark", "abacus"]


@pytest.mark.parametrize("name", ["aardvark.jpg", "../aardvark.jpg", ""])
def test_a_name_without_a_concept_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not of the form <concept>/<file>"):
        table_of_images(["a/b.jpg", name], where="events.tsv")
