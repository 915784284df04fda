"""Hostfiles, and the node selection."""

import subprocess
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.launch.nodes.hosts import (
    MAX_SLOTS,
    Node,
    interface_towards,
    parse_hostfile,
    read_hostfile,
    select_nodes,
    slurm_nodes,
)

A, B = Node(host="a", num_ranks=4), Node(host="b.lan", num_ranks=2)


def test_a_hostfile_is_deepspeed_s() -> None:
    text = "# ours\na slots=4\n\n  b.lan   slots=2  # the small one\n"
    assert parse_hostfile(text) == (A, B)
    from deepspeed.launcher.runner import _parse_hostfile

    assert dict(_parse_hostfile(text.splitlines())) == {node.host: node.num_ranks for node in (A, B)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a slots=4\nb", "line 2: 'b' is not"),
        ("a slots=0", "line 1"),
        ("a slots=1\na slots=2", "a is listed twice"),
        ("# nothing\n", "lists no node"),
    ],
)
def test_a_wrong_hostfile_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_hostfile(text)


def test_a_missing_hostfile_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the hostfile"):
        read_hostfile(tmp_path / "none")


def test_nodes_are_chosen_in_the_file_s_order() -> None:
    assert select_nodes((A, B), include=["b.lan", "a"], exclude=[]) == (A, B)
    assert select_nodes((A, B), include=[], exclude=["a"]) == (B,)
    with pytest.raises(UsageError, match="c is not in the hostfile"):
        select_nodes((A, B), include=["c"], exclude=[])
    with pytest.raises(UsageError, match="leave no node"):
        select_nodes((A,), include=[], exclude=["a"])


def test_the_nodes_of_a_slurm_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    def scontrol(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command == ["scontrol", "show", "hostnames", "n[1-2]"]
        return subprocess.CompletedProcess(command, 0, "n1\nn2\n", "")

    monkeypatch.setattr(subprocess, "run", scontrol)
    environment = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_GPUS_ON_NODE": "8"}
    nodes = slurm_nodes(environment, num_ranks=None)
    assert nodes == (Node(host="n1", num_ranks=8), Node(host="n2", num_ranks=8))
    assert slurm_nodes(environment, num_ranks=3)[0].num_ranks == 3
    with pytest.raises(UsageError, match="inside a SLURM job"):
        slurm_nodes({}, num_ranks=1)
    with pytest.raises(UsageError, match="number of ranks per node is not known"):
        slurm_nodes({"SLURM_JOB_NODELIST": "n[1-2]"}, num_ranks=None)


def test_the_interface_towards_oneself_is_the_loopback() -> None:
    assert interface_towards("127.0.0.1") == "lo"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_hostfile_saved_by_any_editor_is_the_same(tmp_path: Path, encoding: str, newline: str) -> None:
    lines = ["a slots=4", "", "\tb.lan  slots=02 # the small one"]
    (tmp_path / "hosts").write_bytes(newline.join(lines).encode(encoding))
    assert read_hostfile(tmp_path / "hosts") == (A, B)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a slots=4\n".encode("utf-16"), "is UTF-16 or not text. Save it as UTF-8"),
        ("a slots=4\n".encode("utf-16-le"), "is UTF-16 or not text"),
        ("a slots=4\nb slots=1 # Büro\n".encode("latin-1"), "line 2: .*not UTF-8. Save it as UTF-8"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "hosts").write_bytes(content)
    with pytest.raises(UserError, match=rf"hosts.*{words}"):
        read_hostfile(tmp_path / "hosts")


@pytest.mark.parametrize("host", ["node1", "NODE-1.example.org", "_gpu", "10.0.0.7", "fe80::1%eth0", "anna@gpu_2"])
def test_names_and_addresses_are_hosts(host: str) -> None:
    assert parse_hostfile(f"{host} slots=1") == (Node(host=host, num_ranks=1),)


NO_HOSTS = (
    *("-oProxyCommand=touch", "-l@a", "@a", "a,b", "node[1-4]", "a;b", "$(id)", "a/b", "a@b@c"),
    *("bü\u2011ro", "\ufeffa"),
)


@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_ssh_or_pdsh_would_read_otherwise_is_no_host(host: str) -> None:
    """A word that begins with a hyphen is an option of ssh; a comma or a bracket makes pdsh start several hosts."""
    with pytest.raises(UserError, match=r"line 2: .* is not a host\. Write one host per line"):
        parse_hostfile(f"a slots=1\n{host} slots=1")


@pytest.mark.parametrize("slots", [str(MAX_SLOTS + 1), "9" * 20, "9" * 5000], ids=len)
def test_absurd_slots_are_refused(slots: str) -> None:
    assert parse_hostfile(f"a slots={MAX_SLOTS}")[0].num_ranks == MAX_SLOTS
    with pytest.raises(UserError, match=f"line 1: a has .* slots; at most {MAX_SLOTS} are possible"):
        parse_hostfile(f"a slots={slots}")


@pytest.mark.parametrize("other", ["NODE1", "root@node1", "Root@Node1"])
def test_a_host_under_another_spelling_is_the_same_machine(other: str) -> None:
    with pytest.raises(UserError, match=f"line 2: {other} is listed twice, before as node1"):
        parse_hostfile(f"node1 slots=2\n{other} slots=2")
    nodes = parse_hostfile(f"{other} slots=2\nb slots=2")
    assert [node.host for node in select_nodes(nodes, include=["node1"], exclude=[])] == [other]
    assert [node.host for node in select_nodes(nodes, include=[], exclude=["node1"])] == ["b"]
