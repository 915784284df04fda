"""What is written to a job's store without its token is not there."""

from pathlib import Path

import pytest
import torch.distributed as dist

from neuroimagen.launch.nodes.board import PREFIX, Board, version_skew, versions

TOKEN = b"the token of this test"


@pytest.fixture
def store() -> dist.HashStore:
    return dist.HashStore()


def test_messages_and_counts_are_read_by_who_knows_the_token(store: dist.HashStore) -> None:
    one, other = Board(store, TOKEN), Board(store, TOKEN)
    assert other.get("ended/0") is None
    one.put("ended/0", {"outcome": "done", "message": "für µV"})
    assert other.get("ended/0") == {"outcome": "done", "message": "für µV"}
    assert [one.count("beat/0"), other.count("beat/0"), one.count("beat/0", 0)] == [1, 2, 2]


@pytest.mark.parametrize(
    "content", ['{"outcome": "done"}', "", "0" * 64, "0" * 64 + '{"outcome": "done"}', "[" * 10_000]
)
def test_a_forged_message_is_absent(store: dist.HashStore, content: str) -> None:
    store.set(PREFIX + "ended/0", content)
    assert Board(store, TOKEN).get("ended/0") is None


def test_a_message_under_another_name_or_token_is_absent(store: dist.HashStore) -> None:
    Board(store, TOKEN).put("ended/0", {"outcome": "done"})
    store.set(PREFIX + "ended/1", store.get(PREFIX + "ended/0").decode())
    assert Board(store, TOKEN).get("ended/1") is None
    assert Board(store, b"another token").get("ended/0") is None


def test_what_ranks_left_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    store = dist.FileStore(str(tmp_path / "store"), 1) if not hasattr(dist.HashStore, "list_keys") else dist.HashStore()
    board = Board(store, TOKEN)
    board.put("verdict", {"code": 0})
    for key in ("torch.rendezvous.a", "default_pg/0//cpu//0", "seed"):
        store.set(key, "1")
    board.forget_ranks()
    assert sorted(store.list_keys()) == [f"{PREFIX}verdict", "torch.rendezvous.a"]


def test_versions_name_packages_and_our_sources() -> None:
    found = versions()
    assert {"Python", "torch", "neuroimagen's sources"} <= found.keys()
    assert found == versions()
    assert version_skew(found, found) == []
    assert version_skew({"a": "1"}, {"a": "2"}) == ["a 1 against 2"]
    assert version_skew({"a": "1"}, {"b": "2"}) == ["a 1 against absent", "b absent against 2"]
