"""Registries: names without imports, what other packages add, and what they do wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.registry import Registry

BUILTIN = {"ordered": "collections:OrderedDict", "counter": "collections:Counter"}


def registry() -> Registry[type]:
    return Registry("mapping", "neuroimagen.test_mappings", BUILTIN)


def test_names_stand_in_their_order_and_are_loaded_once() -> None:
    import collections

    mappings = registry()
    assert mappings.names() == tuple(mappings) == ("ordered", "counter")
    assert "counter" in mappings
    assert "counters" not in mappings
    assert mappings["counter"] is collections.Counter
    assert dict(mappings.items()) == {"ordered": collections.OrderedDict, "counter": collections.Counter}


def test_an_unknown_name_is_an_error_that_says_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no mapping 'conter'\. Did you mean 'counter'\? There are ordered, counter\."):
        registry()["conter"]


def test_names_are_known_without_an_import() -> None:
    broken = Registry[type]("mapping", "neuroimagen.test_mappings", {"absent": "no_such_module:Thing"})
    assert broken.names() == ("absent",)
    with pytest.raises(ModuleNotFoundError):
        broken["absent"]


def add_package(site: Path, name: str, entries: str) -> None:
    """An installed distribution that declares entry points of the test's group."""
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[neuroimagen.test_mappings]\n{entries}\n")


def in_a_process(site: Path, code: str) -> str:
    start = (
        "from neuroimagen.data_shards.common.registry import Registry\n"
        f"mappings = Registry('mapping', 'neuroimagen.test_mappings', {BUILTIN})\n"
    )
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", start + code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_another_package_adds_an_entry(tmp_path: Path) -> None:
    add_package(tmp_path, "lab-tools", "chained = collections:ChainMap")
    assert in_a_process(tmp_path, "print(mappings.names(), mappings['chained'].__name__)") == (
        "('ordered', 'counter', 'chained') ChainMap"
    )


@pytest.mark.parametrize(
    ("entries", "code", "message"),
    [
        ("counter = collections:ChainMap", "mappings.names()", "the package lab-tools adds the mapping 'counter'"),
        ("bad = no_such_module:Thing", "mappings['bad']", "'bad' of the package lab-tools cannot be imported: Module"),
    ],
)
def test_what_another_package_does_wrong_names_the_package(
    tmp_path: Path, entries: str, code: str, message: str
) -> None:
    add_package(tmp_path, "lab-tools", entries)
    assert message in in_a_process(tmp_path, code)
