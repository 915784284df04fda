"""Strict configuration: what is read, what is refused, where the message says the mistake stands, and earlier names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.strict_config import Schema, Sources, TypeByKey, in_words, plain


@dataclass(frozen=True, kw_only=True)
class Encoder:
    RENAMED: ClassVar[Mapping[str, str]] = {"size": "feature_size"}
    kind: str = "conv"
    feature_size: int = 8

    def __post_init__(self) -> None:
        if self.feature_size < 1:
            raise ValueError(f"feature_size must be at least 1, got {self.feature_size}")


@dataclass(frozen=True, kw_only=True)
class Conv(Encoder):
    kernel: tuple[int, int] = (3, 3)


@dataclass(frozen=True, kw_only=True)
class Lstm(Encoder):
    kind: str = "lstm"
    layers: int = 1


@dataclass(frozen=True, kw_only=True)
class Bounds:
    low: float
    high: float = 1.0
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")


@dataclass(frozen=True, kw_only=True)
class Train:
    steps: int = 100
    rate: float | None = None
    mode: Literal["fast", "exact"] = "exact"


@dataclass(frozen=True, kw_only=True)
class Config:
    RENAMED: ClassVar[Mapping[str, str]] = {"number": "seed", "training": "train"}
    seed: int = 0
    subjects: tuple[int, ...] | None = None
    encoder: Encoder = field(default_factory=Conv)
    train: Train = field(default_factory=Train)
    space: dict[str, Bounds] = field(default_factory=dict)


def encoder_type(kind: Any) -> type[Encoder]:
    types: dict[Any, type[Encoder]] = {None: Conv, "conv": Conv, "lstm": Lstm}
    if kind not in types:
        raise UserError(f"there is no encoder {kind!r}. There are conv, lstm.")
    return types[kind]


SCHEMA = Schema(Config, types={"encoder": TypeByKey(key="kind", type_of=encoder_type, values=("conv", "lstm"))})


def read(tree: dict[str, Any], *overrides: str) -> Config:
    sources = Sources("c.yaml")
    for override in overrides:
        sources.apply(tree, override)
    return SCHEMA.read(tree, sources)


def test_a_tree_becomes_the_dataclass_and_back() -> None:
    tree = {"seed": "3", "subjects": [1, 2], "train": {"rate": "1e-3"}, "space": {"a.b": {"low": 0.5, "log": True}}}
    config = read(tree, "encoder.kind=lstm", "encoder.layers=2", "train.mode=fast")
    assert config == Config(
        seed=3,
        subjects=(1, 2),
        encoder=Lstm(layers=2),
        train=Train(rate=1e-3, mode="fast"),  # YAML 1.1 reads 1e-3 as text
        space={"a.b": Bounds(low=0.5, log=True)},
    )
    assert plain(config)["encoder"] == {"kind": "lstm", "feature_size": 8, "layers": 2}
    assert SCHEMA.read(plain(config), Sources("")) == config
    assert read({"train": None, "encoder": {}}) == Config()


def test_the_tree_that_is_read_stays_as_it_is() -> None:
    tree = {"number": 1, "train": None}
    assert SCHEMA.read(tree, Sources("c.yaml")) == Config(seed=1)
    assert tree == {"number": 1, "train": None}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"trian": {}}, "unknown key 'trian'; did you mean 'train'?"),
        ({"train": {"stesp": 1}}, "unknown key 'train.stesp'; did you mean 'train.steps'?"),
        ({"rate": 1}, "unknown key 'rate'; did you mean 'train.rate'?"),
        ({"train_steps": 1}, "unknown key 'train_steps'; did you mean 'train.steps'?"),
        ({"encoder": {"layers": 2}}, "unknown key 'encoder.layers'; it is a setting of encoder.kind lstm."),
        ({"encoder": {"xyz": 2}}, "unknown key 'encoder.xyz'; the keys there are encoder.kind, encoder.feature"),
        ({"RENAMED": 1}, "unknown key 'RENAMED'; the keys there are seed, subjects, encoder, train, space."),
        ({"encoder": {"kind": "gru"}}, "encoder.kind: there is no encoder 'gru'. There are conv, lstm."),
        ({"train": 3}, "train is a section with keys of its own, not 3."),
        ({"train": {"steps": 1.5}}, "train.steps is 1.5; expected a whole number."),
        ({"train": {"mode": "slow"}}, "train.mode is 'slow'; expected one of fast, exact."),
        ({"subjects": ["a"]}, "subjects is 'a'; expected a list, each a whole number or null."),
        ({"encoder": {"kernel": [1]}}, "expected a list of 2, each a whole number."),
        ({"encoder": {"feature_size": 0}}, "encoder: feature_size must be at least 1, got 0"),
        ({"space": [1]}, "space is a section with keys of its own, not [1]."),
        ({"space": {"a.b": {"lwo": 1}}}, "unknown key 'space.a.b.lwo'; did you mean 'space.a.b.low'?"),
        ({"space": {"a.b": {}}}, "the key space.a.b.low is missing; expected a number."),
        ({"space": {"a.b": {"low": 2}}}, "space.a.b: low 2.0 must be below high 1.0"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=rf"^c\.yaml: .*{re.escape(words)}"):
        read(tree)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.steps=x", "train.mode=fast"],
        ["encoder.feature_size=0", "encoder.kind=lstm"],
        ["encoder.kind=gru", "encoder.feature_size=3"],
        ["train.stesp=1", "train.steps=1"],
        ["encoder={size: 0}"],
    ],
)
def test_the_override_at_fault_is_named_not_another_of_its_section(overrides: list[str]) -> None:
    with pytest.raises(UserError, match=f"^{re.escape('--set ' + overrides[0])}: "):
        read({"train": {"rate": 1}}, *overrides)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "expected key=value"),
        ("train..steps=1", "expected key=value"),
        ("seed=[", "the value is not YAML"),
        ("seed.deep=1", "seed is a value, not a section"),
    ],
)
def test_what_is_no_override_is_refused(override: str, words: str) -> None:
    with pytest.raises(UserError, match=f"--set {re.escape(override)}: .*{words}"):
        read({"seed": 1}, override)


def test_a_renamed_key_is_read_under_its_earlier_name() -> None:
    assert read({"number": 4, "training": {"steps": 5}, "encoder": {"size": 3}}) == Config(
        seed=4, train=Train(steps=5), encoder=Conv(feature_size=3)
    )
    assert read({"encoder": {"kind": "lstm", "size": 3}}).encoder == Lstm(feature_size=3)
    assert "number" not in SCHEMA.dotted_keys()


def test_of_an_earlier_and_the_present_name_the_later_value_holds() -> None:
    assert read({"number": 4}, "seed=5").seed == 5
    assert read({"seed": 4}, "number=5").seed == 5
    assert read({"seed": 4}, "number=5", "seed=6").seed == 6
    assert read({"seed": 4}, "seed=5", "number=6").seed == 6
    # A section that was renamed is joined with what is given under its present name.
    assert read({"training": {"steps": 5, "mode": "fast"}}, "train.steps=6").train == Train(steps=6, mode="fast")
    with pytest.raises(UserError, match=r"^c\.yaml: number is the earlier name of seed; give seed only\."):
        read({"number": 4, "seed": 5})
    with pytest.raises(UserError, match=r"^--set encoder\.size=0: "):
        read({}, "encoder.size=0")


def test_keys_are_those_of_the_types_that_a_tree_decides() -> None:
    assert SCHEMA.dotted_keys() == [
        *("seed", "subjects", "encoder", "encoder.kind", "encoder.feature_size", "encoder.kernel"),
        *("train", "train.steps", "train.rate", "train.mode", "space"),
    ]
    keys = SCHEMA.dotted_keys({"encoder": {"kind": "lstm"}, "space": {"x": {}}})
    assert "encoder.layers" in keys
    assert keys[-5:] == ["space", "space.x", "space.x.low", "space.x.high", "space.x.log"]


def test_types_are_told_in_words() -> None:
    assert in_words(tuple[int, ...] | None) == "a list, each a whole number or null"
    assert in_words(bool | str) == "true or false or text"
    assert in_words(dict[str, float]) == "a section of names, each with a number"


@pytest.mark.parametrize("override", ["train.rate=.nan", "train.rate=nan", "train.rate=.inf", "train.rate=-.inf"])
def test_numbers_are_finite(override: str) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(override)}: train\.rate holds -?(nan|inf); expected"):
        read({}, override)
