"""The stage of docs/how-to/extending.md, from a package outside: command line, recipe, dry run and training know it."""

from collections.abc import Callable
from pathlib import Path

from small_study import RECIPE, write_latents, write_study


def test_a_stage_from_outside_is_trained_from_another_s_encoder_and_exported(
    outside_package: Callable, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    package = outside_package("A stage")
    recipe = tmp_path / "recipe.yaml"
    data = write_study(tmp_path / "data", num_stimuli=40)
    write_latents(data, tiny_diffusion_folder)
    section = "embedding: {batch_size: 8, steps: 4, validate_every: 2, checkpoint_every: 2, initialise_from: null}\n"
    recipe.write_text(RECIPE.format(data=data, model=tiny_diffusion_folder) + section)

    assert "diffusion, embedding" in " ".join(package.run("train", "--help").stdout.split())
    order = package.python(
        "from neuroimagen.trainer.stages.registry import stage_order; print(*stage_order())"
    ).stdout.split()
    assert order.index("contrastive") < order.index("embedding")
    said = package.run("train", "embedding", "--config", recipe, "--dry-run").stdout
    assert "image" in said
    done = package.run("train", "embedding", "--config", recipe, "--dry-run", "--set", "embedding.step=3", check=False)
    assert "unknown key 'embedding.step'; did you mean 'embedding.steps'?" in done.stderr

    run = tmp_path / "run"
    options = ("--config", recipe, "--run", run, "--cpu", "--num-ranks", "1")
    done = package.run("train", "embedding", *options, "--set", "embedding.initialise_from=contrastive", check=False)
    assert "Train that stage first" in done.stderr
    package.run("train", "embedding", *options)
    assert (run / "embedding" / "export" / "model.safetensors").is_file()
    assert "embedding:" in (run / "config.yaml").read_text()
