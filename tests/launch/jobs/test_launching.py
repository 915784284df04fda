"""From the options of `neuroimagen launch` to commands."""

import shlex
import socket
from pathlib import Path

import pytest

from neuroimagen.launch.cli import main

RECIPE = Path(__file__).parents[3] / "launch" / "recipes" / "demo.yaml"


@pytest.fixture
def unknown_nodes(tmp_path: Path) -> Path:
    """A hostfile of two nodes whose names resolve nowhere (RFC 2606)."""
    path = tmp_path / "hosts"
    path.write_text("a.invalid slots=1\nb.invalid slots=2\n", encoding="utf-8")
    return path


def launch_words(hostfile: Path, run: Path, *options: str) -> list[str]:
    train = ("train", "contrastive", "--config", str(RECIPE), "--run", str(run))
    return ["launch", "--hostfile", str(hostfile), "--via", "ssh", *options, "--", *train]


def test_printing_needs_no_node_that_resolves(
    unknown_nodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(launch_words(unknown_nodes, run, "--print")) == 0
    printed = capsys.readouterr()
    commands = [shlex.split(line) for line in printed.out.splitlines()]
    assert [command[-2] for command in commands] == ["a.invalid", "b.invalid"]
    assert all(f"--gate={socket.gethostname()}" in command[-1] for command in commands)
    assert printed.err.startswith("b.invalid cannot be reached: ")
    assert "--address" in printed.err
    assert printed.err.count("\n") == 1
    assert not run.exists()
    assert main(launch_words(unknown_nodes, run, "--print", "--address", "10.0.0.1")) == 0
    printed = capsys.readouterr()
    assert printed.out.count("--gate=10.0.0.1") == 2
    assert printed.err == ""


def test_running_needs_nodes_that_resolve(
    unknown_nodes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(launch_words(unknown_nodes, tmp_path / "run")) == 1
    assert "b.invalid cannot be reached: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ([], "nothing to run: put the command after `--`"),
        (["doctor"], "only train, cache and reconstruct run on many ranks, not doctor"),
        (["train", "contrastive", "--config", str(RECIPE)], "--run DIR is needed"),
        (["train", "contrastive", "--config", str(RECIPE), "--dry-run"], "a dry run starts no ranks"),
        (["train", "contrastive", "--config", str(RECIPE), "--num-ranks", "2"], "put them before `--`"),
    ],
)
def test_what_cannot_run_on_ranks_is_wrong_usage(
    inner: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "--", *inner]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("neuroimagen launch: ")
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("trane contrastive", "neuroimagen: error: argument COMMAND: invalid choice: 'trane'"),
        (
            "cache --data d --model m --cpo",
            "neuroimagen cache: error: unrecognized arguments: --cpo; did you mean --cpu?",
        ),
    ],
)
def test_the_words_after_the_dashes_are_parsed_like_a_command(
    inner: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["launch", "--num-ranks", "2", "--", *inner.split()])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
