"""What is recorded of a source's files."""

import hashlib
from pathlib import Path

from neuroimagen.data_shards.sources.readers.hashes import file_records


def test_size_and_digest_are_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert file_records({"sub-01/a": tmp_path / "a"}) == {
        "sub-01/a": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    }
