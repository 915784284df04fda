"""Every source keeps the contract that the command line and `ingest` rely on."""

import argparse
import re
import shlex
import subprocess
import sys

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.registry import Registry
from neuroimagen.data_shards.sources import registry
from neuroimagen.data_shards.sources.base import Source
from neuroimagen.data_shards.sources.registry import SOURCES, source_class
from neuroimagen.launch.cli import parse

NAMES = (
    "eegcvpr40",
    "eegcvpr40-parquet",
    "things-eeg2",
    "things-eeg1",
    "things-meg",
    "eeg-imagenet",
    "alljoined1",
    "alljoined-1.6m",
    "mindbigdata",
    "thoughtviz",
    "bids",
    "mne",
    "arrays",
)


def test_the_sources_are_these() -> None:
    assert tuple(SOURCES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_source_describes_itself(name: str) -> None:
    found = source_class(name)
    assert 0 < len(found.HELP) < 80
    assert "\n" not in found.HELP
    assert found.DESCRIPTION.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_source_are_valid_commands(name: str) -> None:
    commands = re.findall(r"neuroimagen (data ingest .*?)(?:\n|$)", source_class(name).EXAMPLES.replace("\\\n", " "))
    assert commands
    for command in commands:
        args = parse(shlex.split(command))
        assert args.source == name
        assert str(args.out).startswith("data/")


@pytest.mark.parametrize("name", NAMES)
def test_a_source_leaves_the_options_of_all_sources_to_the_command(name: str) -> None:
    parser = argparse.ArgumentParser()
    source_class(name).add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    assert ("--images" in options) == (name != "eegcvpr40-parquet")  # its files hold the images
    assert not options & {"--out", "--detrend", "--standardise", "--clamp", "--shard-mib"}


def test_the_list_of_sources_is_printed_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from neuroimagen.launch.cli import main\n"
        "try: main(['data', 'ingest', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'mne', 'scipy', 'sklearn', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in NAMES:
        assert f"\n    {name}" in done.stdout


class Unfinished(Source):
    HELP = "a source without the rest"
    EXAMPLES = ""

    def num_segments(self) -> int:
        return 0


def test_what_a_source_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    added = {"lab": f"{__name__}:Unfinished", "other": "collections:OrderedDict"}
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Unfinished.__module__])
    monkeypatch.setattr(registry, "SOURCES", Registry("source", "neuroimagen.no_such_group", added))
    with pytest.raises(
        UserError, match="'lab' does not define DESCRIPTION, add_arguments, from_arguments, metadata, se"
    ):
        source_class("lab")
    with pytest.raises(UserError, match=r"'other' is .*OrderedDict.*; it must be a class derived from .*base\.Source"):
        source_class("other")
    with pytest.raises(UserError, match=r"there is no source 'labs'\. Did you mean 'lab'"):
        source_class("labs")
