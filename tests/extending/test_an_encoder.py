"""The encoder of docs/how-to/extending.md, from outside: recipe, dry run, training, export and loading know it."""

from collections.abc import Callable
from pathlib import Path

from small_study import RECIPE, write_study


def test_an_encoder_from_outside_is_trained_exported_and_loaded(
    outside_package: Callable, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    package = outside_package("An encoder")
    recipe = tmp_path / "recipe.yaml"
    data = write_study(tmp_path / "data", num_stimuli=40)
    recipe.write_text(RECIPE.format(data=data, model=tiny_diffusion_folder))
    kind = ("--set", "encoder.kind=binned", "encoder.bin_samples=8")

    dry = ("train", "contrastive", "--config", recipe, "--dry-run")
    assert "8 channels × 40 samples" in package.run(*dry, *kind).stdout
    done = package.run(*dry, "--set", "encoder.kind=bined", check=False)
    assert (
        "Did you mean 'binned'? There are lstm, temporal_spatial, transformer, nice, atm, flat, linear, tangent, "
        "eegnet, braindecode, binned." in done.stderr
    )
    done = package.run(*dry, *kind, "encoder.heads=2", check=False)
    assert "'encoder.heads'; it is a setting of encoder.kind transformer and atm." in done.stderr

    run = tmp_path / "run"
    package.run("train", "contrastive", "--config", recipe, "--run", run, "--cpu", "--num-ranks", "1", *kind)
    code = (
        "from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder\n"
        f"encoder = EEGEncoder.from_pretrained({str(run / 'contrastive' / 'export')!r})\n"
        "trunk = encoder.trunk\n"
        "print(type(trunk).__module__, encoder.config['encoder']['bin_samples'], trunk.head.in_features)"
    )
    assert package.python(code).stdout.split() == ["lab_tools.encoder", "8", "40"]
