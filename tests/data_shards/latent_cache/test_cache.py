"""The caching job: what is kept, interruption, ranks, threads, checks, and users' mistakes."""

import dataclasses
import errno
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.frozen_models.latent_kinds import KINDS, latent_kind
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.frozen_models.vae import VaeEncoder
from neuroimagen.data_shards.latent_cache.cache import LatentCache, applicable_kinds
from neuroimagen.data_shards.latent_cache.write import LatentWriter


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_there_is_kept(cached: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cache, stores = cached
    monkeypatch.setattr(LatentCache, "_encode", None)
    again = cache.cache("vae")
    assert not again.made
    assert again.store.folder == stores["vae"].store.folder


def test_interrupted_anywhere_the_result_is_the_same(
    cached: tuple, dataset: Dataset, tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops at every single renaming in turn (and so between any two files); the finished bytes never differ."""
    undisturbed = folder_bytes(cached[2]["vae"].store.folder)
    rename = Path.replace
    remaining = 0

    def stopping_rename(self: Path, target: Path) -> Path:
        nonlocal remaining
        if remaining == 0:
            raise KeyboardInterrupt
        remaining -= 1
        return rename(self, target)

    for stop_at in range(12):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stopping_rename)
            remaining = stop_at
            try:
                LatentCache(dataset, tiny_diffusion_folder, batch_size=3, shard_items=5).cache("vae")
                finished = True
            except KeyboardInterrupt:
                finished = False
                assert not list((dataset.folder / "latents").glob("vae-*"))
        if not finished:
            # A killed process does not clean up either.
            (unfinished,) = (dataset.folder / "latents").glob(".vae-*.part")
            (unfinished / ".00001.tar.123-abc.part").write_bytes(b"half")
            kept = len(list(unfinished.glob("*.tar")))
            made = LatentCache(dataset, tiny_diffusion_folder, batch_size=3, shard_items=5).cache("vae")
            assert made.made
            assert kept == min(3, (stop_at + 1) // 2)
        assert folder_bytes(next((dataset.folder / "latents").glob("vae-*"))) == undisturbed
        assert not list((dataset.folder / "latents").glob(".*"))
        if finished:
            break
        shutil.rmtree(dataset.folder / "latents")
    else:
        pytest.fail("never finished undisturbed")


def test_finished_shards_are_not_computed_again(
    dataset: Dataset, tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    encode = LatentCache._encode

    def failing_encode(
        self: LatentCache, encoder: object, metadata: object, rows: Sequence[int], prepared: object
    ) -> object:
        if len(computed) == 7:
            raise RuntimeError("the device went away")
        computed.extend(rows)
        return encode(self, encoder, metadata, rows, prepared)

    monkeypatch.setattr(LatentCache, "_encode", failing_encode)
    with pytest.raises(RuntimeError, match="went away"):
        LatentCache(dataset, tiny_diffusion_folder, batch_size=1, shard_items=3).cache("vae")
    monkeypatch.setattr(LatentCache, "_encode", lambda *args: (computed.extend(args[3]), encode(*args))[1])
    LatentCache(dataset, tiny_diffusion_folder, batch_size=1, shard_items=3).cache("vae")
    # 7 latents before the failure; the two full shards of them are kept, the started third is done again.
    assert computed == [*range(7), *range(6, 14)]


def test_ranks_share_the_work_and_change_nothing(cached: tuple, dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    barrier = threading.Barrier(3, timeout=120)
    caches = []
    for rank in range(3):
        ranks = ProcessShare(rank=rank, world_size=3, wait=barrier.wait)
        caches.append(LatentCache(dataset, tiny_diffusion_folder, batch_size=3, shard_items=5, ranks=ranks))
        # Threads stand in for processes here, and the libraries load in one thread only.
        latent_kind("vae").encoder(caches[-1]._models)
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda cache: cache.cache("vae"), caches))
    assert folder_bytes(made[0].store.folder) == folder_bytes(cached[2]["vae"].store.folder)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_threads_change_no_byte(
    dataset: Dataset, tiny_diffusion_folder: Path, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store that one thread makes, batch after batch and shard after shard, is the one that many make."""
    cache = LatentCache(dataset, tiny_diffusion_folder, batch_size=3, shard_items=5, dtype=dtype)
    metadata, items = cache.describe("vae")
    vae = VaeEncoder(tiny_diffusion_folder, device=torch.device("cpu"))
    writer = LatentWriter(tmp_path, metadata, items)
    for shard in range(3):
        rows = list(writer.rows(shard))
        batches = [dataset.stimuli.images(rows[first : first + 3], 32) for first in range(0, len(rows), 3)]
        latents = [vae.posterior(torch.from_numpy(images).float() / 127.5 - 1) for images in batches]
        writer.write(shard, torch.cat(latents))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3})
    assert folder_bytes(cache.cache("vae").store.folder) == folder_bytes(writer.finish().folder)


def test_shards_are_written_while_the_next_is_encoded(
    dataset: Dataset, tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first shard's writing ends only once the second's encoding has begun, which one thread could not do."""
    second = threading.Event()
    encode, write = LatentCache._encode, LatentWriter.write

    def telling_encode(
        self: LatentCache, encoder: object, metadata: object, rows: Sequence[int], prepared: object
    ) -> object:
        if rows[0] >= 5:
            second.set()
        return encode(self, encoder, metadata, rows, prepared)

    def waiting_write(self: LatentWriter, shard: int, *content: object) -> None:
        assert second.wait(60)
        write(self, shard, *content)

    monkeypatch.setattr(LatentCache, "_encode", telling_encode)
    monkeypatch.setattr(LatentWriter, "write", waiting_write)
    assert LatentCache(dataset, tiny_diffusion_folder, batch_size=3, shard_items=5).cache("vae").made


def test_a_damaged_image_is_named_whichever_thread_reads_it(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    stimuli = dataset.stimuli
    (shard,) = (dataset.folder / "stimuli").glob("*.tar")
    content = bytearray(shard.read_bytes())
    content[int(stimuli.offset[9]) + 40] ^= 1
    shard.unlink()  # a new file: the old one may be mapped
    shard.write_bytes(content)
    with pytest.raises(CorruptSampleError, match=rf"stimulus {stimuli.keys[9]} .* is damaged"):
        LatentCache(Dataset.open(dataset.folder), tiny_diffusion_folder, batch_size=2).cache("vae")


def test_exact_convolutions_are_for_float32_stores_only(
    dataset: Dataset, tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    seen: list[str] = []
    posterior = VaeEncoder.posterior

    def seeing_posterior(self: VaeEncoder, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return posterior(self, pixels)

    monkeypatch.setattr(VaeEncoder, "posterior", seeing_posterior)
    for dtype in ("float16", "float32"):
        LatentCache(dataset, tiny_diffusion_folder, dtype=dtype).cache("vae")
    assert seen == [before, "ieee"]
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_check_agrees_with_what_was_cached(cached: tuple) -> None:
    _, cache, stores = cached
    for kind in stores:
        assert cache.check(stores[kind], num_latents=4) < 1e-3, kind


def test_check_of_blip_s_pooled_states_needs_no_other_store(
    dataset: Dataset, tiny_diffusion_folder: Path, tiny_blip_folder: Path
) -> None:
    """One rank alone checks: it must not start making the captions' store, for which it would wait for the others."""
    ranks = ProcessShare(rank=0, world_size=2, wait=lambda: None)
    cache = LatentCache(dataset, tiny_diffusion_folder, captioner=tiny_blip_folder)
    made = cache.cache("pooled-blip")
    shutil.rmtree(next((dataset.folder / "latents").glob("text-blip-*")))
    again = LatentCache(dataset, tiny_diffusion_folder, captioner=tiny_blip_folder, ranks=ranks)
    assert again.check(made) < 1e-3
    assert not list((dataset.folder / "latents").glob("*text-blip-*"))


def test_check_notices_other_numbers(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    cache = LatentCache(dataset, tiny_diffusion_folder)
    made = cache.cache("pooled-class")
    wrong = dataclasses.replace(made, store=LatentStore.open(made.store.folder))
    wrong.store.get = lambda rows: made.store.get(rows) * 1.01  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"stored pooled-class latent of n\d+_\d+ differs .* Remove .*pooled-class-"):
        cache.check(wrong)


def test_an_encoder_that_breaks_its_word_is_refused(
    dataset: Dataset, tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VaeEncoder, "posterior", lambda self, pixels: torch.zeros(len(pixels), 2, 4, 8, 9))
    with pytest.raises(UserError, match=r"vae latents returned \(14, 2, 4, 8, 9\) .* declares \(14, 2, 4, 8, 8\)"):
        LatentCache(dataset, tiny_diffusion_folder).cache("vae")


def test_nan_names_the_stimulus_and_leaves_nothing(
    dataset: Dataset, tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = LatentCache._encode

    def overflowing_encode(
        self: LatentCache, encoder: object, metadata: object, rows: Sequence[int], prepared: object
    ) -> object:
        latents, texts = encode(self, encoder, metadata, rows, prepared)
        latents = latents.clone()
        latents[4, 0, 0, 0, 0] = 1e6  # finite, but not in float16
        return latents, texts

    monkeypatch.setattr(LatentCache, "_encode", overflowing_encode)
    with pytest.raises(UserError, match=rf"vae latent of {dataset.stimuli.keys[4]} holds NaN or infinity as float16"):
        LatentCache(dataset, tiny_diffusion_folder).cache("vae")
    assert not list((dataset.folder / "latents").glob("vae-*"))
    assert not list((dataset.folder / "latents").rglob("*.tar"))
    assert LatentCache(dataset, tiny_diffusion_folder, dtype="float32").cache("vae").made


def test_full_disk_is_one_clear_line_and_continues(
    dataset: Dataset, tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if "00001" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="No space left on device"):
            LatentCache(dataset, tiny_diffusion_folder, shard_items=5).cache("vae")
    assert not list((dataset.folder / "latents").glob("vae-*"))
    assert LatentCache(dataset, tiny_diffusion_folder, shard_items=5).cache("vae").made


def test_applicable_kinds(cached: tuple, tiny_diffusion_folder: Path, tiny_blip_folder: Path, tmp_path: Path) -> None:
    dataset, _, _ = cached
    kinds, reasons = applicable_kinds(dataset, ModelFolders(model=tiny_diffusion_folder))
    assert kinds == ["vae", "text-class", "text-detailed", "pooled-class", "pooled-detailed", "image"]
    assert set(reasons) == {"text-blip", "pooled-blip"}
    bare = shutil.copytree(tiny_diffusion_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("clip"))
    kinds, reasons = applicable_kinds(dataset, ModelFolders(model=bare, captioner=tiny_blip_folder))
    assert kinds == list(KINDS)
    assert list(reasons) == ["image"]
    assert "bare holds no CLIP model with an image tower" in reasons["image"]
    assert "--towers image=FOLDER" in reasons["image"]
    folders = ModelFolders(model=bare, towers={"image": TowerConfig(path=str(tiny_diffusion_folder / "clip"))})
    assert applicable_kinds(dataset, folders)[0][-1] == "image"


def test_towers_alone_need_no_model(dataset: Dataset, tiny_tower: Callable[[str], Path]) -> None:
    folders = ModelFolders(model=None, towers={"dino": TowerConfig(path=str(tiny_tower("dinov2")))})
    kinds, reasons = applicable_kinds(dataset, folders)
    assert kinds == ["dino"]
    assert set(reasons) >= {*KINDS, "image"}
    assert reasons["vae"] == "no model folder is given (--model)"


def test_one_tower_in_several_configurations_lives_in_one_cache(
    dataset: Dataset, tiny_tower: Callable[[str], Path], tiny_diffusion_folder: Path
) -> None:
    path = str(tiny_tower("dinov2"))
    towers = {
        "dino": TowerConfig(path=path),
        "dino-deep": TowerConfig(path=path, layer=0.67, pool="mean"),
        "dino-fovea": TowerConfig(path=path, view="fovea"),
        "siglip": TowerConfig(path=str(tiny_tower("siglip"))),
    }
    cache = LatentCache(dataset, None, towers=towers, batch_size=5, dtype="float32")
    stores = {kind: cache.cache(kind) for kind in towers}
    assert len({cached.store.folder for cached in stores.values()}) == 4
    for kind, cached in stores.items():
        assert cache.check(cached) <= 2e-4
        assert not cache.cache(kind).made
        found = dataset.latents(kind, model=str(tiny_diffusion_folder), tower=towers[kind])
        assert found.folder == cached.store.folder
    plain, deep, fovea = (stores[kind].store.get(range(12)) for kind in ("dino", "dino-deep", "dino-fovea"))
    assert not torch.allclose(plain, deep)
    assert not torch.allclose(plain, fovea)
    # Under the same name, another layer, pooling or view is another store, and is not served.
    for other in (
        TowerConfig(path=path, pool="mean"),
        TowerConfig(path=path, layer=1.0),
        TowerConfig(path=path, view="blur"),
    ):
        with pytest.raises(
            UserError, match=rf"no dino latents of {path} .*Run: neuroimagen cache .* --towers dino={path}:"
        ):
            dataset.latents("dino", model=str(tiny_diffusion_folder), tower=other)


def test_views_are_of_the_stimulus_whatever_the_batch(dataset: Dataset, tiny_tower: Callable[[str], Path]) -> None:
    from neuroimagen.data_shards.frozen_models.towers.siglip import SiglipTower
    from neuroimagen.data_shards.frozen_models.towers.views import viewed

    path = tiny_tower("siglip")
    towers = {"four": TowerConfig(path=str(path), view="mean-of-four")}
    latents = [
        LatentCache(dataset, None, towers=towers, batch_size=size, dtype="float32", shard_items=items)
        .cache("four")
        .store.get(range(12))
        for size, items in ((3, 5), (12, 12))
    ]
    torch.testing.assert_close(latents[0], latents[1], rtol=1e-5, atol=1e-5)
    encoder = SiglipTower().load(path, device=torch.device("cpu"))
    for row, key in enumerate(dataset.stimuli.keys[:12]):
        views = viewed(dataset.stimuli.image(row), key, view="mean-of-four", size_px=32)
        expected = torch.stack([encoder.encode(encoder.pixels([image]))[0] for image in views]).mean(0)
        torch.testing.assert_close(latents[0][row], expected, rtol=1e-4, atol=1e-5)


def test_an_interrupted_tower_with_views_continues(
    dataset: Dataset, tiny_tower: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cache() -> LatentCache:
        towers = {"four": TowerConfig(path=str(tiny_tower("dinov2")), view="mean-of-four", layer=0.67)}
        return LatentCache(dataset, None, towers=towers, batch_size=2, shard_items=4)

    undisturbed = folder_bytes(cache().cache("four").store.folder)
    shutil.rmtree(dataset.folder / "latents")
    encode, calls = LatentCache._encode, []

    def failing_encode(self: LatentCache, *args: object) -> object:
        calls.append(args)
        if len(calls) == 4:
            raise RuntimeError("the device went away")
        return encode(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(LatentCache, "_encode", failing_encode)
        with pytest.raises(RuntimeError, match="went away"):
            cache().cache("four")
    (unfinished,) = (dataset.folder / "latents").glob(".four-*.part")
    assert len(list(unfinished.glob("*.tar"))) == 1
    made = cache().cache("four")
    assert made.made
    assert folder_bytes(made.store.folder) == undisturbed


class TestBadModelFolders:
    """Each: one clear line that names the folder, and nothing written."""

    @pytest.fixture
    def model(self, tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
        return shutil.copytree(tiny_diffusion_folder, tmp_path / "model")

    def test_missing(self, dataset: Dataset, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="nowhere does not exist"):
            LatentCache(dataset, tmp_path / "nowhere")

    def test_without_model_index(self, dataset: Dataset, model: Path) -> None:
        (model / "model_index.json").unlink()
        with pytest.raises(UserError, match=r"model has no model_index\.json"):
            LatentCache(dataset, model)

    def test_without_a_component(self, dataset: Dataset, model: Path) -> None:
        shutil.rmtree(model / "vae")
        with pytest.raises(UserError, match="lacks its vae/ folder"):
            LatentCache(dataset, model).cache("vae")

    def test_captioner_of_another_kind(self, dataset: Dataset, model: Path) -> None:
        with pytest.raises(UserError, match="is a CLIP model, not a BLIP captioner"):
            LatentCache(dataset, model, captioner=model / "clip")

    def test_blip_captions_without_a_captioner(self, dataset: Dataset, model: Path) -> None:
        with pytest.raises(UserError, match="--blip"):
            LatentCache(dataset, model).cache("text-blip")

    def test_image_without_clip(self, dataset: Dataset, model: Path) -> None:
        shutil.rmtree(model / "clip")
        with pytest.raises(UserError, match="no CLIP model with an image tower"):
            LatentCache(dataset, model).cache("image")


@torch.no_grad()
def test_text_states_of_sdxl_are_those_that_its_pipeline_computes(dataset: Dataset, tiny_sdxl_folder: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    cache = LatentCache(dataset, tiny_sdxl_folder, dtype="float32")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_folder, use_safetensors=True)
    captions = list(dataset.stimuli.captions)
    hidden, _, pooled, _ = pipeline.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
    for kind, expected in (("text-class", hidden), ("pooled-class", pooled)):
        cached = cache.cache(kind)
        assert cached.cut is None
        torch.testing.assert_close(cached.store.get(range(len(captions))), expected, rtol=1e-4, atol=1e-5)
        assert cache.check(cached) <= 2e-4
