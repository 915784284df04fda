"""The two kinds of users' errors, and the exit codes that the command line makes of them."""

import pytest

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.launch.cli import main


def test_wrong_usage_is_an_error_of_the_user() -> None:
    with pytest.raises(UserError, match="choose one"):
        raise UsageError("choose one")


def test_the_command_line_tells_them_apart(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", f"{tmp_path}/nowhere"]) == 1  # UserError
    assert main(["data", "repack", f"{tmp_path}", "--out", f"{tmp_path}/out", "--workers", "0"]) == 2  # UsageError
    assert capsys.readouterr().err.count("\n") == 2
