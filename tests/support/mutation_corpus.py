"""The corpus of mutations.py: one small file of every kind that is read."""

import json
import shutil
from pathlib import Path

import mutated_commands
import mutated_models
import numpy as np


def build_corpus(corpus: Path, dataset: Path, model: Path) -> Path:
    """One small file of every kind that is read."""
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.latent_cache.cache import LatentCache
    from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
    from neuroimagen.trainer.networks.encoders.lstm import LSTMConfig
    from neuroimagen.trainer.runs.rank_status import write_status
    from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures
    from neuroimagen.trainer.training.checkpoint_folder import RunState, mark_complete

    shutil.copytree(dataset, corpus / "data")
    shutil.copytree(model, corpus / "model")
    LatentCache(Dataset.open(corpus / "data"), corpus / "model").cache("text-class")
    stage = corpus / "run" / "contrastive"
    (stage / "logs").mkdir(parents=True)
    recipe = Path(__file__).resolve().parents[2] / "launch" / "recipes" / "demo.yaml"
    shutil.copy(recipe, corpus / "recipe.yaml")
    shutil.copy(recipe, corpus / "run" / "config.yaml")
    shutil.copy(recipe.with_name("tune-margin.yaml"), corpus / "search.yaml")
    (corpus / "hostfile").write_text("node-a slots=4\nnode-b slots=4  # comment\n")
    start = {"started": "2026-01-01", "command": ["neuroimagen", "train"], "selection_split": "val", "num_ranks": 1}
    (stage / "environment.json").write_text(json.dumps([start]))
    lines = [{"step": step, "loss": 1.0 / step, "val_loss": 2.0 / step} for step in range(1, 9)]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_status(stage / "logs", 0, "done")
    figures = SegmentFigures(rows=np.arange(4), stimuli=np.arange(4), values={"loss": np.ones(4)})
    figures.write(stage / "validation.parquet")
    build_encoder(LSTMConfig(), n_channels=4, n_samples=32).save_pretrained(stage / "export")
    for step in (2, 4):
        folder = stage / "checkpoints" / f"step-{step:08d}"
        (folder / "network").mkdir(parents=True)
        save_file({"a": torch.ones(3)}, folder / "network" / "rest.safetensors")
        state = RunState(
            step=step, engines={"network": {"step": step, "scaler": None}}, recent_losses={"network": [1.0]}
        )
        (folder / "state.json").write_text(json.dumps(vars(state)))
        mark_complete(folder)
    (stage / "checkpoints" / "latest").write_text("step-00000004\n")
    made = corpus / "run" / "reconstructions" / "full"
    made.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(made / "0.png")
    item = {"segment": "000000000", "stimulus": "s", "label": 0, "subject": 1, "sample": 0, "file": "0.png"}
    (made / "manifest.json").write_text(json.dumps({"condition": "full", "steps": 2, "items": [item]}))
    arrays = corpus / "arrays"
    (arrays / "images").mkdir(parents=True)
    eeg = np.zeros((2, 3, 8), np.float32)
    np.save(arrays / "eeg.npy", eeg)
    np.savez_compressed(arrays / "eeg.npz", eeg=eeg)
    torch.save({"dataset": [{"eeg": torch.zeros(3, 8), "label": 0}]}, arrays / "eeg.pth")
    (arrays / "labels.csv").write_text("image,class,subject\na.png,dog,1\nb.jpg,cat,2\n")
    for name in ("a.png", "b.jpg", "c.tif", "d.gif", "e.webp"):
        Image.effect_noise((24, 16), 50).convert("RGB").save(arrays / "images" / name)
    return corpus


def add_commands(corpus: Path, model: Path) -> None:
    """Add the files that only whole commands read."""
    mutated_commands.build(corpus, model)
    mutated_models.build(corpus, model)
