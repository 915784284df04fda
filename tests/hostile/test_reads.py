"""Files from outside are read by reading.py, which refuses FIFOs, devices, bombs and what is nested too deep."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIRECT = re.compile(r"\.read_text\(|\.read_bytes\(|json\.loads?\(|\.open\(\"r|\.open\(encoding|np\.load\(")
ALLOWED = {
    "data_shards/common/reading.py": "it is the reader",
    "data_shards/format/npz.py": "a file that reading.py opened",
    "data_shards/sources/readers/npy.py": "maps a file whose header and kind were checked",
    "data_shards/sources/readers/images.py": "members of an opened archive",
    "data_shards/new_eeg/description.py": "a value of its own, as JSON gives it back",
    "data_shards/frozen_models/encoder.py": "a value of its own, as JSON gives it back",
    "trainer/training/checkpoint.py": "a value of its own, as JSON gives it back",
    "data_shards/dataset/verify.py": "files that were read and checked a moment before",
    "data_shards/remote/mirror.py": "its own copy of a file",
    "data_shards/remote/block_cache.py": "its own cache",
    "trainer/report/templates.py": "files of the package",
    "trainer/runs/rank_lock.py": "a lock file, whose content nothing reads",
    "trainer/runs/rank_status.py": "writes the status of its own rank in place",
    "trainer/runs/wandb_log.py": "the id that it has written itself, after is_file",
    "tune/trials/process.py": "the log of a process that it has started",
    "tune/trials/training.py": "the log of a process that it has started",
    "launch/jobs/progress.py": "the metrics of a job that it has started",
    "launch/nodes/board.py": "an authenticated message, and files of the package",
    "launch/nodes/gate.py": "the key of the user",
    "launch/nodes/logs.py": "logs of ranks that it has started",
    "launch/demo.py": "the table that it has just made",
    "launch/commands/tune.py": "the table that it has just made",
    "launch/commands/evaluate.py": "the table that it has just made",
}
"""Module → why it may read by itself."""


def test_nothing_else_reads_a_file_by_itself() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("data_shards", "trainer", "tune", "launch")
        for path in (ROOT / folder).rglob("*.py")
        if DIRECT.search(path.read_text()) and not {"bundled_model", "simulator"} & set(path.parts)
    }
    assert found - ALLOWED.keys() == set(), "read it with neuroimagen.data_shards.common.reading"
    assert ALLOWED.keys() - found == set(), "no longer needed here"
