"""YAML files of recipes and searches: what is no tree of keys is refused with the file's name."""

from pathlib import Path

import pytest
import yaml

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.strict_yaml import load_yaml, read_tree


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


def bomb(levels: int) -> str:
    text = "&k0 [1,1,1,1,1,1,1,1,1,1]"
    for level in range(1, levels):
        text = f"&k{level} [{text}" + f",*k{level - 1}" * 9 + "]"
    return f"seed: {text}\n"


def merges(levels: int) -> str:
    sections = [f"a{n}: &a{n}\n  <<: [{','.join([f'*a{n - 1}'] * 10)}]\n  k{n}: 1\n" for n in range(1, levels)]
    return "a0: &a0 {x: 1}\n" + "".join(sections)


@pytest.mark.parametrize(
    "text",
    [
        *(bomb(9), merges(12), "&a [*a]", "a: &a {b: *a}", "[" * 2000, "a: " + "1," * 70_000),
        *(
            "seed: 2001-99-99",
            "seed: !!float abc",
            'seed: !!int "0x"',
            "seed: " + "9" * 5000,
            "a: !!omap [1]",
            "a: \x00",
        ),
        *(
            "? [a]\n: 1",
            "a: 2001-01-01 00:00:00 +99:99",
            "a: !!timestamp x",
            "a: 1\n---\nb: 2",
            "a: !!bool x",
            "*x",
            "\0",
        ),
    ],
)
def test_bombs_and_values_that_are_none_are_errors_of_yaml(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_aliases_and_merges_of_a_recipe_are_read() -> None:
    text = "a: &x {b: 1, c: [1, 2]}\nd: {<<: *x, c: 3}\ne: [*x, *x]\n"
    section = {"b": 1, "c": [1, 2]}
    assert load_yaml(text) == {"a": section, "d": {"b": 1, "c": 3}, "e": [section, section]}
