"""`bench train`: both loops take the same steps, cached and encoded latents agree, figures are correct."""

import json
from pathlib import Path

import pytest
import torch

from neuroimagen.benchmarks import train, train_latents, train_steps
from neuroimagen.benchmarks.noise_data import open_noise_latents, write_noise, write_noise_latents
from neuroimagen.launch.cli import main
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.training.build import build_stage

CPU = torch.device("cpu")


def flat(stage: Stage) -> torch.Tensor:
    """The network that is trained first: later ones depend on its new weights."""
    return torch.cat([p.detach().flatten() for p in stage.networks[stage.phases[0].network].parameters()])


@pytest.mark.parametrize("name", train.STAGES)
def test_both_loops_train_alike(one_rank: None, name: str) -> None:
    shapes = train_steps.bundled_shapes()
    stages = [build_stage(train_steps.recipe_of(name), name, shapes) for _ in range(3)]
    origin = flat(stages[2])
    batch = train_steps.make_batch(stages[0], shapes, CPU)
    # The bare loop's learning rate is constant; without the engine's warm-up the networks move alike.
    for step in (train_steps.engine_step(stages[0], CPU), train_steps.bare_step(stages[1], CPU)):
        step(0, batch)
    engine, bare = flat(stages[0]) - origin, flat(stages[1]) - origin
    assert bare.abs().max() > 0
    assert torch.nn.functional.cosine_similarity(engine, bare, dim=0) > 0.98


def test_every_stage_takes_part() -> None:
    assert {*train.STAGES, "semantic_detailed"} == set(STAGES.names())


def test_figures_are_of_the_blocks(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([0.002, 0.001, 0.001, 0.002] * 2)
    monkeypatch.setattr(train_steps, "timed", lambda step, count, device: next(durations))
    monkeypatch.setattr(train_steps, "engine_step", lambda stage, device: lambda number, batch: None)
    monkeypatch.setattr(train_steps, "bare_step", lambda stage, device: lambda number, batch: None)
    figures = train_steps.compare_steps("contrastive", CPU, blocks=4, block_steps=1)
    # Bare first in even blocks, the engine first in odd ones.
    assert figures["bare_ms"] == pytest.approx(2.0)
    assert figures["engine_ms"] == pytest.approx(1.0)
    assert figures["overhead"] == pytest.approx(-0.5)


def test_cached_and_encoded_latents_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With cached and with encoded latents a step gets the same segments and, up to float16, the same latents."""
    fed: dict[int, list[dict[str, torch.Tensor]]] = {}

    def compare(step, ways, blocks, block_steps, device):  # type: ignore[no-untyped-def]
        batches = [next(batches) for batches in ways.values()]
        fed[len(fed)] = [{"rows": batch.rows, **batch.latents} for batch in batches]
        step(0, batches[1])
        return {}

    monkeypatch.setattr(train_latents, "_take_turns", compare)
    found = train_latents.compare_latents(tmp_path, CPU, blocks=1, block_steps=1)
    assert list(found) == ["diffusion", "semantic"]
    for (cached, encoded), kind in zip(fed.values(), ("vae", "text-class"), strict=True):
        assert cached.keys() == encoded.keys() == {"rows", kind}
        assert torch.equal(cached["rows"], encoded["rows"])
        assert cached[kind].std() > 0.1
        torch.testing.assert_close(cached[kind], encoded[kind], rtol=2e-3, atol=2e-3)


def test_turns_are_compared_with_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([9.0, 9.0, 0.004, 0.001, 0.002, 0.004])  # warm-up; encoding first; cached first
    monkeypatch.setattr(train_latents, "timed", lambda step, count, device: next(durations))
    ways = {"cached": iter([]), "encoding": iter([])}
    figures = train_latents._take_turns(lambda number, batch: None, ways, 2, 1, CPU)  # type: ignore[arg-type]
    assert figures["cached_ms"] == pytest.approx(1.5)
    assert figures["encoding_ms"] == pytest.approx(4.0)
    assert figures["times"] == pytest.approx(3.0)  # the median of 4 and 2


def test_noise_is_a_sound_data_set(tmp_path: Path) -> None:
    shapes = Shapes(n_channels=3, n_samples=20, num_classes=5, text_shape=(4, 6))
    dataset = write_noise(tmp_path / "data", shapes, num_segments=200, num_stimuli=10, image_size_px=32)
    assert len(dataset.rows("train", None)) + len(dataset.rows("val", None)) == 200
    assert len(dataset.rows("val", None)) == 10
    assert (dataset.index.label == dataset.stimuli.labels[dataset.index.stimulus]).all()
    assert dataset.stimuli.images([0, 9], 32).shape == (2, 3, 32, 32)
    store = write_noise_latents(dataset, "text-class", (4, 6))
    again = open_noise_latents(dataset, "text-class")
    assert torch.equal(store.get([0, 7]), again.get([0, 7]))
    assert not torch.equal(again.get([0]), again.get([1]))


@pytest.mark.slow
def test_the_command_appends_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, threads = tmp_path / "train.json", torch.get_num_threads()
    arguments = ["--parts", "latents", "jobs", "--blocks", "1", "--block-steps", "1", "--repeats", "1"]
    assert main(["bench", "train", *arguments, "--job-steps", "30", "--json", str(path)]) == 0
    torch.set_num_threads(threads)
    (record,) = map(json.loads, path.read_text().splitlines())
    assert record["configuration"]["versions"]["torch"] == torch.__version__
    assert record["latents"]["diffusion"]["encoding_ms"] > 0
    assert record["jobs"]["ranks"]["1"]["segments_per_second"] > 0
    assert "times as fast as one" in capsys.readouterr().out
