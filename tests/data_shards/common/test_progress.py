"""Progress bars appear on a terminal, on rank 0, and nowhere else."""

import io
import sys

import pytest

from neuroimagen.data_shards.common.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "rank", "is_shown"), [(Terminal(), "0", True), (Terminal(), "1", False), (io.StringIO(), "0", False)]
)
def test_a_bar_is_shown_on_a_terminal_of_rank_0_only(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, rank: str, is_shown: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("RANK", rank)
    assert list(track(range(5), total=5, desc="segments")) == [0, 1, 2, 3, 4]
    assert ("segments" in stream.getvalue()) == is_shown
