"""`neuroimagen data verify`: its exit codes."""

from pathlib import Path

import pytest

from neuroimagen.launch.cli import main


def test_damage_is_named_and_the_exit_code_is_1(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", str(data)]) == 0
    assert "every byte is as written" in capsys.readouterr().out
    shard = data / "segments" / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert main(["data", "verify", str(data)]) == 1
    printed = capsys.readouterr().out
    assert "00000.tar: segment 000000000 at offset 512 is damaged" in printed
    assert printed.endswith(": 1 problem\n")
