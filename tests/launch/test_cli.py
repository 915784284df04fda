"""The command line: its commands, its imports, its errors and exit codes."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.launch import cli

HEAVY = ("torch", "transformers", "diffusers", "deepspeed", "ray", "mne", "numpy", "scipy", "sklearn", "matplotlib")
DOCTOR = "neuroimagen.launch.commands.doctor"
PUBLIC_COMMANDS = {
    *(
        "demo",
        "data",
        "cache",
        "train",
        "launch",
        "reconstruct",
        "evaluate",
        "report",
        "embed",
        "predict",
        "tune",
        "bench",
    ),
    *("doctor", "recipe", "adapt"),
}


def test_the_commands_are_these() -> None:
    assert set(cli.COMMANDS) == PUBLIC_COMMANDS


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['neuroimagen', '--help']\n"
        "from neuroimagen.launch.cli import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in PUBLIC_COMMANDS:
        assert f"\n    {command}" in done.stdout


def test_the_help_of_a_command_imports_no_network_and_no_statistics() -> None:
    code = (
        "import contextlib, sys\n"
        "from neuroimagen.launch.cli import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    with contextlib.suppress(SystemExit): main([command, '--help'])\n"
        f"    print(command, [name for name in {HEAVY!r} if name != 'numpy' and name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [f"{command} []" for command in cli.COMMANDS]


def test_evaluation_imports_scipy_and_scikit_learn_where_they_are_used() -> None:
    """A command that needs neither does not wait for them."""
    code = (
        "import sys, neuroimagen.trainer.evaluation.evaluate, neuroimagen.trainer.report.page\n"
        "print([name for name in ('scipy.stats', 'sklearn', 'matplotlib', 'mne') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reading_a_recipe_of_every_stage_imports_no_compiler() -> None:
    """The launcher reads it, and every rank: PyTorch's compiler would be a second of each."""
    code = (
        "import sys\n"
        "from neuroimagen.trainer.recipe.recipe import Recipe\n"
        "from neuroimagen.trainer.stages.registry import STAGES\n"
        "assert len([STAGES[name] for name in Recipe().stages]) >= 10\n"
        "print([name for name in ('torch._dynamo', 'diffusers', 'transformers', 'deepspeed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", sorted(PUBLIC_COMMANDS))
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"neuroimagen {command}" in capsys.readouterr().out.split("options:")[-1]


def failing(error: BaseException) -> SimpleNamespace:
    def run(args: argparse.Namespace) -> None:
        raise error

    return SimpleNamespace(HELP="h", EPILOG="e", add_arguments=lambda parser: None, run=run)


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("the disk is full"), 1), (UsageError("choose one"), 2), (KeyboardInterrupt(), 130)]
)
def test_errors_are_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    monkeypatch.setitem(sys.modules, DOCTOR, failing(error))
    assert cli.main(["doctor"]) == code
    message = capsys.readouterr().err
    assert message.startswith("neuroimagen doctor: ")
    assert message.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, DOCTOR, failing(UserError("no")))
    for words in (["--debug", "doctor"], ["doctor", "--debug"]):
        with pytest.raises(UserError):
            cli.main(words)


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["trane"])
    assert stop.value.code == 2
    assert "invalid choice: 'trane'" in capsys.readouterr().err


def test_the_recipes_are_found_beside_the_package() -> None:
    folder = Path(cli.__file__).parent / "recipes"
    assert {path.name for path in folder.glob("*.yaml")} >= {"demo.yaml", "eegcvpr40-sd15.yaml"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "data simulate --out a --claases 3",
            "data simulate: error: unrecognized arguments: --claases 3; did you mean --classes?",
        ),
        (
            "data ingest arrays --eeg a --table b --images c --sfreq 1 --out d --chanel-names A",
            "did you mean --channel-names?",
        ),
        ("report --run r --zzz", "neuroimagen report: error: unrecognized arguments: --zzz\n"),
        ("doctor now", "neuroimagen doctor: error: unrecognized arguments: now\n"),
    ],
)
def test_a_misspelt_option_has_its_commands_usage(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("usage: neuroimagen " + words.split()[0])
