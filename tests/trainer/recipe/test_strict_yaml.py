"""YAML files of recipes and searches: what is no tree of keys is refused with the file's name."""

from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.strict_yaml import read_tree


def test_a_file_is_its_keys_and_an_empty_one_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("base: &base {x: 1}\nown: {<<: *base, y: [2, 3]}\n")
    assert read_tree(path, noun="recipe", example="data") == {"base": {"x": 1}, "own": {"x": 1, "y": [2, 3]}}
    path.write_text("x: 1\n", encoding="utf-8-sig")  # a byte-order mark is no part of the first key
    assert read_tree(path, noun="recipe", example="data") == {"x": 1}
    path.write_text("# nothing yet\n")
    assert read_tree(path, noun="recipe", example="data") == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x: 1\ny: {z: 2, z: 3}\n", r"a\.yaml is not YAML: the key 'z' is given twice in one section .* line 2"),
        (b"x: [\n", r"a\.yaml is not YAML: .* line 2"),
        (b"- 1\n", r"a\.yaml holds list where keys such as `space:` are expected"),
        (b"\xff\xfe", r"cannot read the search .*a\.yaml"),
        (b"!!python/object:os.system {}\n", r"a\.yaml is not YAML: could not determine a constructor"),
    ],
)
def test_what_is_no_tree_of_keys_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_tree(tmp_path / "a.yaml", noun="search", example="space")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no search .*absent\.yaml"):
        read_tree(tmp_path / "absent.yaml", noun="search", example="space")
