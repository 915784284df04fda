"""The demo: its steps are a pure list, finished steps are not repeated, and all of it runs."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from train_here import train_in_process

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch import demo
from neuroimagen.launch.cli import main, parse


def test_the_steps_are_commands_that_parse(tmp_path: Path) -> None:
    steps = demo.demo_steps(demo.DemoConfig(out=tmp_path / "run", num_ranks=1))
    assert [step.name for step in steps] == [
        *("simulate", "ingest", "cache"),
        *("contrastive", "alignment", "saliency", "semantic", "prior", "semantic_detailed", "vae_latent"),
        *("reconstruct", "evaluate", "report"),
    ]
    for step in steps:
        parse(step.arguments)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's files would be among those of a data set."""
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=lambda *_, **__: SimpleNamespace(returncode=1)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="data exists and is not empty"):
        demo.run_demo(demo.DemoConfig(out=tmp_path / "data"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["dataset.json"]
    for _ in range(2):  # a demo that failed in its first step goes on
        with pytest.raises(UserError, match="step simulate failed"):
            demo.run_demo(demo.DemoConfig(out=tmp_path / "new"))


def test_an_interrupted_demo_goes_on_and_refuses_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def fake_run(command: list[str], **_: object) -> SimpleNamespace:
        called.append(command[3])
        failing = command[3] == "cache" and called.count("cache") == 1
        return SimpleNamespace(returncode=1 if failing else 0)

    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=fake_run))
    config = demo.DemoConfig(out=tmp_path / "run")
    with pytest.raises(UserError, match="step cache failed"):
        demo.run_demo(config)
    demo.run_demo(config)
    assert called[:4] == ["data", "data", "cache", "cache"]  # simulate and ingest once, cache twice
    before = len(called)
    demo.run_demo(config)
    assert len(called) == before
    with pytest.raises(UserError, match="other settings"):
        demo.run_demo(demo.DemoConfig(out=tmp_path / "run", seed=1))


def test_stages_run_side_by_side_once_what_they_read_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running, done, together = threading.Lock(), set[str](), set[str](), set[frozenset[str]]()
    config = demo.DemoConfig(out=tmp_path / "run", stages_at_once=2)
    after = {step.arguments: (step.name, step.after) for step in demo.demo_steps(config)}
    threads = []

    def fake_run(command: list[str], env: dict[str, str], **_: object) -> SimpleNamespace:
        name, needed = after[tuple(command[3:])]
        with lock:
            running.add(name)
            together.add(frozenset(running))
            assert done >= set(needed), name
        if name in ("alignment", "saliency"):
            assert tuple(command[-3:-1]) == ("--num-ranks", "1")
            threads.append(env.get("OMP_NUM_THREADS"))
            deadline = time.monotonic() + 60
            while not {"alignment", "saliency"} <= running | done and time.monotonic() < deadline:
                time.sleep(0.001)
        with lock:
            running.remove(name)
            done.add(name)
        return SimpleNamespace(returncode=int(name == "alignment" and first))

    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=fake_run))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    first = True
    with pytest.raises(UserError, match="step alignment failed"):
        demo.run_demo(config)
    assert "saliency" in done  # it ran to its end
    assert not done & {"prior", "vae_latent", "reconstruct"}  # which read what failed
    assert frozenset({"alignment", "saliency"}) in together
    assert threads == [str(max(1, len(os.sched_getaffinity(0)) // 2))] * 2
    first = False
    done -= {"alignment"}
    demo.run_demo(config)
    assert len(done) == len(after)
    assert all(len(names) <= 2 for names in together)
    alone = {"simulate", "ingest", "cache", "contrastive", "reconstruct", "evaluate", "report"}
    assert all(len(names) == 1 for names in together if names & alone)


def check_results(out: Path) -> None:
    """A report that has every condition, and a data set that is as it was written."""
    results = json.loads((out / "report" / "results.json").read_text())
    conditions = {entry["condition"] for entry in results}
    assert conditions >= {"full", "semantic_only", "saliency_only", "full_detailed", "semantic_only_detailed"}
    assert conditions >= {"oracle_class", "random_class", "vae_round_trip", "perfect_saliency", "mean_image"}
    assert conditions >= {"chance", "ceiling"}
    assert (out / "report" / "report.html").stat().st_size > 10_000
    assert (out / "report" / "grid.png").exists()
    assert main(["data", "verify", str(out / "data")]) == 0


def test_the_quick_demo_s_steps_lead_from_eeg_to_a_report(tmp_path: Path, one_rank: None) -> None:
    """The commands of the demo with all of their words, in this process: no process waits for its imports."""
    out = tmp_path / "a run"  # with a space
    for step in demo.demo_steps(demo.DemoConfig(out=out, quick=True)):
        command, *words = step.arguments
        if command == "train":
            args = parse(step.arguments)
            (stage,) = args.stages
            train_in_process(args.config, stage, args.run, args.set, resume=args.resume)
        else:
            # `launch … -- COMMAND` starts the ranks of a command.
            assert main(words[words.index("--") + 1 :] if command == "launch" else step.arguments) == 0, step.name
    check_results(out)


@pytest.mark.slow
def test_quick_demo_from_eeg_to_report(tmp_path: Path) -> None:
    """Every process of the demo; only the study and the numbers of steps are small."""
    out = tmp_path / "a run"  # with a space
    done = subprocess.run(
        [sys.executable, "-m", "neuroimagen.launch.cli", "demo", "--out", str(out), "--quick"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert str(out / "report" / "report.html") in done.stdout
    check_results(out)
