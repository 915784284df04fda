"""What dataset.json records of the files that a data set was made from."""

from collections.abc import Mapping
from pathlib import Path

from neuroimagen.data_shards.format.tables import file_sha256


def file_records(files: Mapping[str, Path]) -> dict[str, dict[str, int | str]]:
    """Name → size in bytes and SHA-256 of each file. Reads every byte of them."""
    return {name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for name, path in files.items()}
