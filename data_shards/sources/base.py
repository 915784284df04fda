"""What a source of recordings implements.

A source is one class in one file. The class describes it to the command line: help texts, options, and how it is made
from them. An instance says what the recordings hold (`metadata`), and yields their stimuli and segments. All else is
the same for all sources: preprocessing, float16, shards, index, provenance (ingest.py), and the command `neuroimagen
data ingest NAME`. registry.py lists the sources; docs/how-to/extending.md has a complete example.
"""

import abc
import argparse
from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

from neuroimagen.data_shards.format.schema import DatasetMetadata, SegmentRecord, StimulusRecord


class Source(abc.ABC):
    """Recordings that can be turned into a data set."""

    HELP: ClassVar[str]
    """What the recordings are, in one line: shown by `neuroimagen data ingest --help`."""
    DESCRIPTION: ClassVar[str]
    """What is read and how, in a few sentences: shown above the source's options."""
    EXAMPLES: ClassVar[str]
    """Complete command lines: shown below the options. Common indentation is removed."""

    notes: Sequence[str] = ()
    """What was left out or looks odd, one sentence each: printed before the data set is written."""

    @classmethod
    @abc.abstractmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the source's own options to its parser. options.py has those that several sources share.

        `--out`, preprocessing and shard size are options of every source and are added by the command.
        """

    @classmethod
    @abc.abstractmethod
    def from_arguments(cls, args: argparse.Namespace) -> Self:
        """Make the source from the parsed options; read and check what can be checked before anything is written.

        Raises UserError for recordings that cannot be read as asked, UsageError for options that contradict each other.
        """

    @abc.abstractmethod
    def metadata(self) -> DatasetMetadata:
        """Channels, samples, rate, classes, split rule, provenance. The writer fills in the counts."""

    @abc.abstractmethod
    def stimuli(self) -> Iterator[StimulusRecord]:
        """Every stimulus that a segment refers to, once, with the encoded image as it will be stored."""

    @abc.abstractmethod
    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        """Every segment, or those of one split (train, val, test); always in the same order, as often as asked."""

    @abc.abstractmethod
    def num_segments(self) -> int:
        """How many segments `segments()` yields; for the progress bar."""
