"""What a class must define to be a source."""

import argparse
from collections.abc import Iterator
from typing import Self

import pytest

from neuroimagen.data_shards.format.schema import DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.sources.base import Source


class Complete(Source):
    HELP = DESCRIPTION = EXAMPLES = "nothing"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--number", type=int, default=0)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Self:
        made = cls()
        made.notes = [f"number {args.number}"]
        return made

    def metadata(self) -> DatasetMetadata:
        raise NotImplementedError

    def stimuli(self) -> Iterator[StimulusRecord]:
        return iter(())

    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        return iter(())

    def num_segments(self) -> int:
        return 0


def test_a_source_is_made_from_its_own_options() -> None:
    parser = argparse.ArgumentParser()
    Complete.add_arguments(parser)
    assert Complete.from_arguments(parser.parse_args(["--number", "3"])).notes == ["number 3"]
    assert Complete().notes == ()


@pytest.mark.parametrize("name", ["add_arguments", "from_arguments", "metadata", "stimuli", "segments", "num_segments"])
def test_a_class_without_one_of_the_methods_cannot_be_made(name: str) -> None:
    incomplete = type("Incomplete", (Complete,), {name: getattr(Source, name)})
    with pytest.raises(TypeError, match=name):
        incomplete()
