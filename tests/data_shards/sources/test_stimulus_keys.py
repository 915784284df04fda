"""Keys from image names in any script: valid, unique, and independent of the order of the names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.tar import is_valid_key
from neuroimagen.data_shards.sources.stimulus_keys import keys_of_images


def test_plain_names_keep_their_letters() -> None:
    names = ["set 1/7.png", "n02951358_31190.JPEG", "a.b.c.png", "Straße.png"]
    assert list(keys_of_images(names).values()) == ["set_1_7", "n02951358_31190", "a_b_c", "Stra_e"]


@pytest.mark.parametrize(
    "pair",
    [
        ("x/a b.png", "x/a_b.png"),
        ("d.png", "d.jpg"),
        ("ü1.png", "ö1.png"),
        ("日本.png", "中国.png"),
        ("q" * 90 + "1.png", "r" * 90 + "1.png"),
        ("-_-.png", "日.png"),
    ],
)
def test_names_that_differ_only_in_what_a_key_leaves_out_get_keys_of_their_own(pair: tuple[str, str]) -> None:
    keys = keys_of_images(["other.png", *pair])
    assert keys["other.png"] == "other"
    assert len(set(keys.values())) == 3
    assert all(map(is_valid_key, keys.values()))
    assert keys_of_images([*pair[::-1], "other.png"]) == keys


@given(st.lists(st.text(st.characters(exclude_characters="/.\0", exclude_categories=("Cs",)), min_size=1), unique=True))
def test_keys_are_always_valid_and_unique(names: list[str]) -> None:
    keys = keys_of_images([f"{name}.png" for name in names])
    assert len(set(keys.values())) == len(names)
    assert all(map(is_valid_key, keys.values()))


def test_a_name_that_looks_like_another_s_key_with_digits_gets_its_own() -> None:
    keys = keys_of_images(["d.png", "d.jpg"])
    names = ["d.png", "d.jpg", f"{keys['d.png']}.png"]
    assert len(set(keys_of_images(names).values())) == 3


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "a/../../b.png"])
def test_paths_out_of_the_folder_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="lies outside the image folder"):
        keys_of_images([name])
