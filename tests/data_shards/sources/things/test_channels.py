"""Which channels are taken, and what is said of those that are not."""

import pytest

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.sources.things.channels import USUAL_ORDER, choose_channels, usual_order

PUBLISHED_17 = "P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2"


def test_occipito_parietal_are_the_authors_17() -> None:
    assert len(USUAL_ORDER) == len(set(USUAL_ORDER)) == 63
    chosen = choose_channels(USUAL_ORDER, ["occipito-parietal"], where="f")
    assert chosen.names == tuple(PUBLISHED_17.split())
    assert " ".join(USUAL_ORDER[place] for place in chosen.positions) == PUBLISHED_17
    assert "17 of 63 channels: P7, P5" in chosen.notes[0]


def test_names_are_taken_in_the_order_of_the_file_whatever_their_case() -> None:
    chosen = choose_channels(["Fp1", "OZ", "PO3"], ["po3", "Fp1"], where="f")
    assert (chosen.names, chosen.positions.tolist(), chosen.notes) == (("Fp1", "PO3"), [0, 2], ())


@pytest.mark.parametrize("name", ["stim", "STI 014", "Status", "VEOG", "EOG2", "ECG", "trigger"])
def test_what_records_no_brain_activity_is_left_out_and_said(name: str) -> None:
    chosen = choose_channels(["Oz", name, "Pz"], None, where="f")
    assert chosen.names == ("Oz", "Pz")
    assert chosen.notes == (f"channels {name} are left out: by their names they record no brain activity",)
    asked = choose_channels(["Oz", name, "Pz"], [name], where="f")
    assert asked.names == (name,)
    assert name in asked.notes[0]


def test_what_cannot_be_taken_is_named() -> None:
    with pytest.raises(UserError, match="f has no channel 'Q9'; it has Oz, Pz"):
        choose_channels(["Oz", "Pz"], ["Q9"], where="f")
    with pytest.raises(UserError, match="channel 'OZ' comes twice"):
        choose_channels(["OZ", "oz"], None, where="f")
    with pytest.raises(UserError, match="no channel is left"):
        choose_channels(["Cz", "Fz"], ["occipito-parietal"], where="f")
    with pytest.raises(UsageError, match="not both"):
        choose_channels(["Cz", "Oz"], ["occipito-parietal", "Cz"], where="f")


def test_the_usual_order_is_taken_where_all_names_are_known() -> None:
    assert usual_order(["Oz", "Fp1", "Cz"]) == [1, 2, 0]
    assert usual_order(["Oz", "Fp1", "X"]) == [0, 1, 2]
