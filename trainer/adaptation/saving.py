"""Writes a run that is adapted to a subject, for `neuroimagen predict`, `neuroimagen embed` and `Pipeline`.

ADAPTED/config.yaml, input.json     the run's
ADAPTED/<stage>/export              adapted networks; those of stages that read no EEG (prior) as the run has them

Every drawing stage has an encoder of its own. Whitening adapts them all, because it needs no training; of other
methods, the stages that were not adapted are left out, so that no image is drawn by two different encoders.
"""

import shutil
from pathlib import Path

from torch import nn

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.new_eeg.description import INPUT_FILE
from neuroimagen.trainer.adaptation.covariance_alignment import align_covariance, moments
from neuroimagen.trainer.adaptation.decoders import CentroidClassifier, Segments
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.pretrained import PretrainedModule, load_exported
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.stages.base import NORMALISATION_SEGMENTS
from neuroimagen.trainer.stages.registry import STAGES, stage_order

ADAPTED_FOLDER = "run"
"""Where the adapted run is written, in the folder of the adaptation's figures."""


def write_adapted_run(
    run: Path,
    folder: Path,
    adapted: dict[str, nn.Module],
    *,
    recipe: Recipe,
    calibration: Segments | None,
) -> list[str]:
    """Write the run's folder anew with the networks in `adapted` (stage → network); returns what was left out, in
    sentences.

    calibration: the subject's segments, where the method is whitening: encoders of other stages are adapted too.
    """
    folder.mkdir(parents=True)
    for name in ("config.yaml", INPUT_FILE):
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    left_out = []
    for stage in stage_order():
        export = run / stage / "export"
        if not export.is_dir():
            continue
        network = adapted.get(stage)
        if network is None:
            STAGES[stage]  # imports the class of what the stage exports
            found = load_exported(export)
            encoders = [module for module in found.modules() if isinstance(module, EEGEncoder)]
            if encoders and calibration is None:
                left_out.append(stage)
                continue
            for encoder in encoders:
                assert calibration is not None
                _whiten(encoder, recipe, calibration)
            network = found
        elif isinstance(network, CentroidClassifier):
            network = network.encoder  # what the contrastive stage exports
        assert isinstance(network, PretrainedModule)
        shutil.copytree(export, folder / stage / "export")  # with what a stage leaves beside its own network
        network.save_pretrained(folder / stage / "export")
    if not left_out:
        return []
    return [
        f"{', '.join(left_out)} {'has an encoder of its' if len(left_out) == 1 else 'have encoders of their'} own that "
        "this method did not adapt, so the adapted run is without"
    ]


def _whiten(encoder: EEGEncoder, recipe: Recipe, calibration: Segments) -> None:
    assert recipe.data.path is not None  # the run's data set has been opened
    own = Dataset.open(recipe.data.path)
    rows = own.rows("train", recipe.data.subjects)
    rows = rows[:: max(1, len(rows) // NORMALISATION_SEGMENTS)][:NORMALISATION_SEGMENTS]
    trained = moments(Segments.read(own, rows).eeg.split(64), encoder.whitening)
    align_covariance(encoder, trained, moments(calibration.eeg.split(64), encoder.whitening))
