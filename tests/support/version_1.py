"""A data set as schema version 1 had it on disk: without session, recording and onset in the index and in .json."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq

NEW_FIELDS = ("session", "recording", "onset_s")


def make_version_1(folder: Path) -> None:
    """Rewrite a data set in place. A .json member fills one tar block in both versions, so nothing else moves."""
    for name in ("segments", "stimuli"):
        for shard in (folder / name).glob("*.tar"):
            _rewrite_shard(shard)
    table = pq.read_table(folder / "index.parquet")
    pq.write_table(
        table.drop_columns(["session", "recording", "onset_s"]), folder / "index.parquet", compression="zstd"
    )
    body = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    del body["sha256"]
    body["schema_version"] = 1
    body["tables"]["index.parquet"] = hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**body, "sha256": digest}, indent=1, sort_keys=True, allow_nan=False) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8")


def _rewrite_shard(path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as new:
        for member in old.getmembers():
            file = old.extractfile(member)
            assert file is not None
            content = file.read()
            if member.name.endswith(".json"):
                fields = {name: value for name, value in json.loads(content).items() if name not in NEW_FIELDS}
                if "detailed_caption" in fields:
                    fields["detailed_caption"] = fields["detailed_caption"] or None
                content = json.dumps(fields, sort_keys=True, ensure_ascii="stimulus" in fields).encode()
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    # tarfile pads to 10,240 bytes; the writer ends an archive with two empty blocks.
    content = buffer.getvalue().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512) + bytes(1024))
