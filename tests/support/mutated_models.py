"""Kinds of files that mutations.py changes: model folders of every layout, checkpoints that training goes on from,
folders of searches, and what an interrupted job left.
"""

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mutated_commands

TOWERS = ("clip-vision", "dinov2", "dinov2-registers", "siglip", "siglip-vision")
Kinds = dict[str, tuple[Callable[[Path], None], tuple[str, ...], int]]


def _draw(name: str, corpus: Path) -> None:
    """Load a diffusion model and take two steps with it."""
    import torch

    from neuroimagen.data_shards.frozen_models.recognise import recognise
    from neuroimagen.trainer.reconstruction.pipelines.generator import Generator

    recognise(corpus / name)
    generator = Generator(corpus / name, device=torch.device("cpu"))
    generator.denoise([torch.Generator()], generator.prompt(["a dog"]), steps=2, guidance=1.0)


def _encode(name: str, corpus: Path) -> None:
    """Encode an image by a tower."""
    import torch
    from PIL import Image

    from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
    from neuroimagen.data_shards.frozen_models.loading import LoadedModels
    from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
    from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig

    towers = {"mine": TowerConfig(path=str(corpus / "towers" / name))}
    folders = ModelFolders(model=None, towers=towers)
    kind = latent_kind("mine", towers)
    kind.identity(folders)
    kind.shape(folders)
    encoder = kind.encoder(LoadedModels(folders, device=torch.device("cpu")))  # type: ignore[attr-defined]
    encoder.encode(encoder.pixels([Image.new("RGB", (40, 32), (200, 30, 60))]))


def _caption(corpus: Path) -> None:
    import torch
    from PIL import Image

    from neuroimagen.data_shards.frozen_models.captioner import Captioner

    captioner = Captioner(corpus / "captioner", device=torch.device("cpu"))
    captioner.caption(captioner.pixels([Image.new("RGB", (40, 32))]))


def _resume(corpus: Path) -> None:
    """Go on from the newest good checkpoint: weights, moments, average and random states."""
    from small_engine import small_engine

    from neuroimagen.trainer.training.checkpoint import Checkpoints
    from neuroimagen.trainer.training.checkpoint_folder import latest_checkpoint
    from neuroimagen.trainer.training.process_group import ProcessGroup

    folder = corpus / "resumed"
    found = latest_checkpoint(folder)
    if found is None:
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), one_rank():
        Checkpoints(folder, group=ProcessGroup(), keep=2).load(found, {"network": small_engine(0)}, {})


@contextlib.contextmanager
def one_rank():
    """This process as the only rank of a group, as a launcher would start it."""
    from neuroimagen.launch.nodes.job import free_port
    from neuroimagen.trainer.training.engines.deepspeed_adapter import temporary_process_group

    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with temporary_process_group():
        yield


def _search(name: str, corpus: Path) -> None:
    """Read a finished search and write its result, as `tune --resume` does."""
    from neuroimagen.tune.records import SearchFolder, open_search, read_search
    from neuroimagen.tune.report.write import write_result

    folder = SearchFolder(corpus / "searches" / name)
    files = (folder.best, folder.found, folder.results, folder.table, folder.page, folder.csv)
    try:
        search, recipe = read_search(folder)
        open_search(folder, search, recipe, resume=True)
        for record in folder.records():
            _ = folder.trial(record.name).num_starts, folder.trial(record.name).num_copies
            folder.segment_figures(record.name)
        write_result(folder, search, recipe, num_stimuli=400)
    finally:
        for path in files:
            path.unlink(missing_ok=True)


def _continued_cache(corpus: Path) -> None:
    """Go on with a latent cache that was interrupted before its end."""
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.latent_cache.cache import LatentCache

    folder = corpus / "half-cached"
    work = corpus / "half-cached-work"
    try:
        shutil.copytree(folder, work, symlinks=True)
        cache = LatentCache(Dataset.open(work), corpus / "model", shard_items=5)
        cache.cache("text-class").store.get(_first_two())
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _first_two():
    import numpy as np

    return np.array([0, 1])


KINDS: Kinds = {
    "model sdxl": (partial(_draw, "sdxl"), ("sdxl/*.json", "sdxl/*/*.json", "sdxl/*/*.txt"), 1),
    "model unclip": (partial(_draw, "unclip"), ("unclip/*.json", "unclip/*/*.json", "unclip/*/*.safetensors"), 2),
    "captioner": (_caption, ("captioner/*",), 2),
    **{f"tower {name}": (partial(_encode, name), (f"towers/{name}/*",), 1) for name in (*TOWERS, "open-clip")},
    "resumed checkpoint": (
        _resume,
        ("resumed/*", "resumed/*/*", "resumed/*/*/*"),
        3,
    ),
    "search margin": (partial(_search, "margin"), ("searches/margin/*.*", "searches/margin/*/*/*"), 1),
    "search guidance": (partial(_search, "guidance"), ("searches/guidance/*.*", "searches/guidance/*/*/*"), 1),
    "interrupted cache": (_continued_cache, ("half-cached/latents/.*/*",), 1),
}


def build(corpus: Path, model: Path) -> None:
    """Write the files of every kind here. `model`: the tiny diffusion model."""
    from recorded_search import margin_records, margin_search, pareto_records, pareto_search, store
    from tiny_families import build_tiny_unclip_folder
    from tiny_models import build_tiny_blip_folder, build_tiny_tower
    from tiny_sdxl import build_tiny_sdxl_folder

    from neuroimagen.tune.records import SearchFolder

    build_tiny_sdxl_folder(corpus / "sdxl")
    build_tiny_unclip_folder(corpus / "unclip")
    build_tiny_blip_folder(corpus / "captioner")
    for name in TOWERS:
        build_tiny_tower(corpus / "towers" / name, name)
    registry = mutated_commands.module_of_test("data_shards/frozen_models/towers/test_registry.py")
    registry.write_open_clip(corpus / "towers" / "open-clip")
    store(SearchFolder(corpus / "searches" / "margin"), margin_search(), margin_records())
    store(SearchFolder(corpus / "searches" / "guidance"), pareto_search(), pareto_records())
    SearchFolder(corpus / "searches" / "margin").trial("trials/0000").add_start()
    _build_checkpoints(corpus / "resumed")
    _build_half_cached(corpus)


def _build_checkpoints(folder: Path) -> None:
    from small_engine import small_engine, take_steps

    from neuroimagen.trainer.training.checkpoint import Checkpoints
    from neuroimagen.trainer.training.checkpoint_folder import RunState
    from neuroimagen.trainer.training.process_group import ProcessGroup

    with one_rank():
        checkpoints = Checkpoints(folder, group=ProcessGroup(), keep=2)
        folder.mkdir(parents=True)
        engine = small_engine(0)
        for step in (2, 4):
            take_steps(engine, 2)
            checkpoints.save(RunState(step=step, best=1.0, best_step=step, data_digest="d"), {"network": engine}, {})
        checkpoints.commit()


def _build_half_cached(corpus: Path) -> None:
    """A data set whose latents have all shards but one, each with its record."""
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.latent_cache.cache import LatentCache
    from neuroimagen.data_shards.latent_cache.write import LatentWriter

    folder = corpus / "half-cached"
    shutil.copytree(corpus / "data", folder)
    shutil.rmtree(folder / "latents")
    write, finish = LatentWriter.write, LatentWriter.finish

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    LatentWriter.finish = stop  # type: ignore[assignment]
    try:
        with contextlib.suppress(KeyboardInterrupt):
            LatentCache(Dataset.open(folder), corpus / "model", shard_items=5).cache("text-class")
    finally:
        LatentWriter.write, LatentWriter.finish = write, finish
