"""The latent cache: numbers against direct calls of the libraries, identity of what made them, interruption, ranks."""

import copy
import dataclasses
import errno
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import build_tiny_diffusion_folder

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.format.schema import metadata_digest
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.frozen_models.encoders import VaeEncoder
from neuroimagen.data_shards.frozen_models.latent_kinds import KINDS
from neuroimagen.data_shards.latent_cache.encode import CHECK_TOLERANCE, CachedLatents, LatentCache, applicable_kinds
from neuroimagen.data_shards.latent_cache.write import LatentWriter
from neuroimagen.data_shards.remote.files import RemoteOptions
from neuroimagen.data_shards.simulator.drawn_stimuli import draw_scene, sample_scene
from neuroimagen.trainer.bundled_model.location import bundled_model_path


@pytest.fixture(scope="module")
def cached(
    make_tiny_dataset: Callable[..., Path],
    tiny_diffusion_folder: Path,
    tiny_blip_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Dataset, LatentCache, dict[str, CachedLatents]]:
    """Every kind cached for 14 stimuli of 12 classes, 5 latents a shard, in batches of 3."""
    dataset = Dataset.open(make_tiny_dataset(tmp_path_factory.mktemp("cache") / "data", num_stimuli=14))
    cache = LatentCache(dataset, tiny_diffusion_folder, captioner=tiny_blip_folder, batch_size=3, shard_items=5)
    return dataset, cache, {kind: cache.cache(kind) for kind in KINDS}


@pytest.fixture
def dataset(make_tiny_dataset: Callable[..., Path], tmp_path: Path) -> Dataset:
    """A data set of its own for tests that write into it."""
    return Dataset.open(make_tiny_dataset(tmp_path / "data", num_stimuli=14))


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pictures(dataset: Dataset, size_px: int) -> torch.Tensor:
    images = dataset.stimuli.images(range(len(dataset.stimuli)), size_px)
    return torch.from_numpy(images).float() / 127.5 - 1


def test_vae_latents_are_the_posterior(cached: tuple, tiny_diffusion_folder: Path) -> None:
    from diffusers import AutoencoderKL

    dataset, _, stores = cached
    store = stores["vae"].store
    vae = AutoencoderKL.from_pretrained(tiny_diffusion_folder, subfolder="vae")
    with torch.no_grad():
        posterior = vae.encode(pictures(dataset, 32)).latent_dist
    latents = store.get(range(14))
    assert latents.shape == (14, 2, 4, 8, 8)
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents[:, 0], posterior.mean, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(latents[:, 1], posterior.std, rtol=2e-3, atol=1e-4)
    assert store.metadata.scaling_factor == pytest.approx(0.7)


@pytest.mark.parametrize("source", ["class", "detailed", "blip"])
def test_text_latents_are_the_text_encoder_s(cached: tuple, tiny_diffusion_folder: Path, source: str) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    dataset, _, stores = cached
    hidden, pooled = stores[f"text-{source}"].store, stores[f"pooled-{source}"].store
    if source != "blip":
        expected = dataset.stimuli.captions if source == "class" else dataset.stimuli.detailed_captions
        assert hidden.texts == list(expected)
    assert hidden.texts == pooled.texts
    tokenizer = CLIPTokenizer.from_pretrained(tiny_diffusion_folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(tiny_diffusion_folder / "text_encoder")
    tokens = tokenizer(hidden.texts, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        output = encoder(tokens.input_ids)
    torch.testing.assert_close(hidden.get(range(14)), output.last_hidden_state, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(pooled.get(range(14)), output.pooler_output, rtol=2e-3, atol=2e-3)


def test_class_captions_are_encoded_once_each(cached: tuple) -> None:
    _, _, stores = cached
    assert stores["text-class"].store.metadata.num_latents == 12
    assert len(stores["text-class"].store) == 14
    assert stores["vae"].store.metadata.num_latents == 14


def test_image_latents_are_projected_embeddings(cached: tuple, tiny_diffusion_folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    dataset, _, stores = cached
    processor = CLIPImageProcessorPil.from_pretrained(tiny_diffusion_folder / "clip")
    clip = CLIPModel.from_pretrained(tiny_diffusion_folder / "clip")
    pixels = processor(images=[dataset.stimuli.image(row) for row in range(14)], return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    torch.testing.assert_close(stores["image"].store.get(range(14)), expected, rtol=2e-3, atol=2e-3)


def test_blip_captions_differ_between_pictures(cached: tuple) -> None:
    _, _, stores = cached
    texts = stores["text-blip"].store.texts
    assert len(set(texts)) > 1
    assert any(texts)  # random weights may also say nothing


def test_get_takes_rows_in_any_order_with_repeats(cached: tuple) -> None:
    _, _, stores = cached
    for store in (stores["vae"].store, stores["text-class"].store):
        everything = store.get(np.arange(14))
        rows = [13, 0, 0, 12, 5]
        assert torch.equal(store.get(rows), everything[rows])
        assert store.get([]).shape == (0, *store.metadata.shape)


def test_what_is_there_is_kept(cached: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cache, stores = cached
    monkeypatch.setattr(LatentCache, "_encode", None)
    again = cache.cache("vae")
    assert not again.made
    assert again.store.folder == stores["vae"].store.folder


def test_dataset_finds_its_latents(cached: tuple, tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    dataset, _, stores = cached
    moved = shutil.copytree(tiny_diffusion_folder, tmp_path / "renamed")
    for kind in KINDS:
        assert dataset.latents(kind, model=str(moved)).folder == stores[kind].store.folder


def test_another_model_is_never_served(cached: tuple, tmp_path: Path) -> None:
    from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES

    dataset, _, stores = cached
    other = build_tiny_diffusion_folder(
        tmp_path / "tiny-diffusion", class_names=[item.wnid for item in CLASSES], seed=1
    )
    for kind in ("vae", "text-class", "image"):
        with pytest.raises(UserError, match=rf"no {kind} latents.*{stores[kind].store.folder.name}.*neuroimagen cache"):
            dataset.latents(kind, model=str(other))


def test_changed_tokenizer_or_picture_size_is_another_model(
    cached: tuple, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    dataset, _, _ = cached
    model = shutil.copytree(tiny_diffusion_folder, tmp_path / "model")
    merges = model / "tokenizer" / "merges.txt"
    merges.write_text(merges.read_text() + "d o\n")
    unet = model / "unet" / "config.json"
    unet.write_text(json.dumps(json.loads(unet.read_text()) | {"sample_size": 16}))
    for kind in ("vae", "text-class", "pooled-class"):
        with pytest.raises(UserError, match=f"no {kind} latents"):
            dataset.latents(kind, model=str(model))
    assert dataset.latents("image", model=str(model))


def test_latents_of_other_stimuli_are_never_served(
    cached: tuple, make_tiny_dataset: Callable[..., Path], tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    dataset, _, _ = cached
    other = Dataset.open(make_tiny_dataset(tmp_path / "data", num_stimuli=13))
    shutil.copytree(dataset.folder / "latents", other.folder / "latents")
    for kind in ("vae", "text-class"):
        with pytest.raises(UserError, match=f"no {kind} latents"):
            other.latents(kind, model=str(tiny_diffusion_folder))


def test_two_fitting_stores_are_refused(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    for dtype in ("float16", "float32"):
        LatentCache(dataset, tiny_diffusion_folder, dtype=dtype).cache("text-class")
    with pytest.raises(UserError, match="2 stores of text-class"):
        dataset.latents("text-class", model=str(tiny_diffusion_folder))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_stored_dtypes(dataset: Dataset, tiny_diffusion_folder: Path, dtype: str, tolerance: float) -> None:
    cache = LatentCache(dataset, tiny_diffusion_folder, dtype=dtype)
    made = cache.cache("pooled-class")
    direct, _ = cache._encode("pooled-class", cache._metadata("pooled-class")[1], range(12), None)
    error = (made.store.get(range(12)) - direct).abs()
    assert (error <= tolerance * direct.abs()).all()
    assert cache.check(made) <= max(tolerance, 1e-6)


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
            # A killed process does not clean up behind itself either.
            (part,) = (dataset.folder / "latents").glob(".vae-*.part")
            (part / ".00001.tar.123-abc.part").write_bytes(b"half")
            kept = len(list(part.glob("*.tar")))
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

    def failing_encode(self: LatentCache, kind: str, items: object, rows: range, pictures: object) -> object:
        if len(computed) == 7:
            raise RuntimeError("the device went away")
        computed.extend(rows)
        return encode(self, kind, items, rows, pictures)

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
        _ = caches[-1]._vae  # threads stand in for processes here, and the libraries load in one thread only
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda cache: cache.cache("vae"), caches))
    assert folder_bytes(made[0].store.folder) == folder_bytes(cached[2]["vae"].store.folder)


def test_shards_are_plain_webdataset_tars(cached: tuple) -> None:
    import webdataset

    _, _, stores = cached
    store = stores["text-blip"].store
    shards = sorted(str(path) for path in store.folder.glob("*.tar"))
    assert len(shards) == 3
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == store.stimulus_keys
    assert [json.loads(sample["json"])["text"] for sample in samples] == store.texts
    with tarfile.open(shards[0]) as tar:
        member = tar.getmembers()[0]
        content = tar.extractfile(member)
        assert content is not None
        array = np.load(io.BytesIO(content.read()), allow_pickle=False)
    assert member.name == f"{store.stimulus_keys[0]}.latent.npy"
    assert array.dtype == np.float16
    assert np.array_equal(array.astype(np.float32), store.get([0])[0].numpy())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_threads_change_no_byte(
    dataset: Dataset, tiny_diffusion_folder: Path, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store that one thread makes, batch after batch and shard after shard, is the one that many make."""
    cache = LatentCache(dataset, tiny_diffusion_folder, batch_size=3, shard_items=5, dtype=dtype)
    metadata, items = cache._metadata("vae")
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
    """The first shard's writing ends only once the second's encoding has begun: in one thread that would never be."""
    second = threading.Event()
    encode, write = LatentCache._encode, LatentWriter.write

    def telling_encode(self: LatentCache, kind: str, items: object, rows: range, pictures: object) -> object:
        if rows[0] >= 5:
            second.set()
        return encode(self, kind, items, rows, pictures)

    def waiting_write(self: LatentWriter, shard: int, *content: object) -> None:
        assert second.wait(60)
        write(self, shard, *content)

    monkeypatch.setattr(LatentCache, "_encode", telling_encode)
    monkeypatch.setattr(LatentWriter, "write", waiting_write)
    assert LatentCache(dataset, tiny_diffusion_folder, batch_size=3, shard_items=5).cache("vae").made


def test_a_damaged_picture_is_named_whichever_thread_reads_it(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    stimuli = dataset.stimuli
    (shard,) = (dataset.folder / "stimuli").glob("*.tar")
    content = bytearray(shard.read_bytes())
    content[int(stimuli.offset[9]) + 40] ^= 1
    shard.unlink()  # a new file: the old one may be mapped
    shard.write_bytes(content)
    with pytest.raises(CorruptSampleError, match=rf"stimulus {stimuli.keys[9]} .* is damaged"):
        LatentCache(Dataset.open(dataset.folder), tiny_diffusion_folder, batch_size=2).cache("vae")


class TestPrecision:
    """Which arithmetic keeps the VAE's latents within what storing may cost; on the trained VAE that ships."""

    @pytest.fixture(scope="class")
    def vae(self) -> VaeEncoder:
        return VaeEncoder(bundled_model_path(), device=torch.device("cpu"))

    @pytest.fixture(scope="class")
    def pixels(self) -> torch.Tensor:
        rng = np.random.default_rng(0)
        drawn = np.stack([draw_scene(sample_scene(rng), 64) for _ in range(16)]).transpose(0, 3, 1, 2)
        return torch.from_numpy(drawn.copy()).float() / 127.5 - 1

    @staticmethod
    def error(latents: torch.Tensor, exact: torch.Tensor) -> float:
        """As LatentCache.check measures it."""
        difference = (latents - exact).flatten(1).abs().amax(1) / exact.flatten(1).abs().amax(1)
        return float(difference.max())

    def test_tf32_convolutions_do_for_float16_not_for_float32(self, vae: VaeEncoder, pixels: torch.Tensor) -> None:
        """Emulated: inputs and weights rounded to 10 bits, sums in float32, as tensor cores do."""

        def tf32(values: torch.Tensor) -> torch.Tensor:
            return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

        exact = vae.posterior(pixels)
        rounded = copy.deepcopy(vae)
        for module in rounded.vae.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.data = tf32(module.weight.data)
                module.register_forward_pre_hook(lambda _, args: (tf32(args[0]),))
        error = self.error(rounded.posterior(pixels), exact)
        assert CHECK_TOLERANCE["float32"] < error < CHECK_TOLERANCE["float16"] / 2

    def test_bfloat16_does_not_do(self, vae: VaeEncoder, pixels: torch.Tensor) -> None:
        low = copy.deepcopy(vae.vae).to(torch.bfloat16)
        with torch.inference_mode():
            mean = low.encode(pixels.bfloat16()).latent_dist.mean
        assert self.error(mean.float(), vae.posterior(pixels)[:, 0]) > 2 * CHECK_TOLERANCE["float16"]

    def test_slices_are_the_whole(self, vae: VaeEncoder, pixels: torch.Tensor) -> None:
        sliced = copy.deepcopy(vae)
        assert (sliced.image_size_px, sliced.slice_pictures) == (64, 256)
        sliced.slice_pictures = 5
        torch.testing.assert_close(sliced.posterior(pixels), vae.posterior(pixels), rtol=1e-4, atol=1e-4)
        latents = vae.encode(pixels)
        torch.testing.assert_close(sliced.decode(latents), vae.decode(latents), rtol=1e-4, atol=1e-4)

    def test_exact_convolutions_are_for_float32_stores_only(
        self, dataset: Dataset, tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
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
    for kind in KINDS:
        assert cache.check(stores[kind], num_latents=4) < 1e-3, kind


def test_check_notices_other_numbers(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    cache = LatentCache(dataset, tiny_diffusion_folder)
    made = cache.cache("pooled-class")
    wrong = dataclasses.replace(made, store=LatentStore.open(made.store.folder))
    wrong.store.get = lambda rows: made.store.get(rows) * 1.01  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"stored pooled-class latent of n\d+_\d+ differs .* Remove .*pooled-class-"):
        cache.check(wrong)


def test_damaged_latent_is_named(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    folder = LatentCache(dataset, tiny_diffusion_folder).cache("pooled-class").store.folder
    shard = folder / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[512 + 130] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptSampleError, match=r"00000\.tar: latent caption-\w+ at offset 512 is damaged"):
        LatentStore.open(folder).get([0])
    shard.write_bytes(content[:-2000])
    with pytest.raises(CorruptSampleError, match=r"00000\.tar has .* bytes"):
        LatentStore.open(folder).get([0])
    (folder / "latents.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*latents\.json"):
        LatentStore.open(folder)


def test_verify_covers_every_byte_of_the_latents(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    folder = LatentCache(dataset, tiny_diffusion_folder, shard_items=2).cache("pooled-class").store.folder
    assert list(verify(dataset.folder)) == []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 25)):
            path.unlink()  # a new file: the old one may be mapped
            path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            problems = list(verify(dataset.folder))
            assert problems, f"a flipped bit at {place} of {path.name} goes unnoticed"
            assert all(folder.name in problem for problem in problems)
        path.write_bytes(content[:-1])
        assert list(verify(dataset.folder))
        path.write_bytes(content)
    (folder / "stray.tar").write_bytes(b"")
    assert [problem.split(":")[0] for problem in verify(dataset.folder)] == [str(folder / "stray.tar")]
    (folder / "stray.tar").unlink()
    folder.rename(folder.with_name("pooled-class-x-000000000000"))
    assert "its latents.json is that of" in next(verify(dataset.folder))


def test_hostile_latent_metadata_is_refused(dataset: Dataset, tiny_diffusion_folder: Path) -> None:
    """Edited together with its own digest, as an attacker would."""
    folder = LatentCache(dataset, tiny_diffusion_folder).cache("pooled-class").store.folder
    sound = json.loads((folder / "latents.json").read_text())
    del sound["sha256"]
    edits = (
        {"shape": [1 << 19, 1 << 19]},
        {"shape": 7},
        {"shape": ["8"]},
        {"shard_bytes": None},
        {"num_stimuli": "many"},
        {"kind": 3},
        {"dtype": "object"},
        {"extra": 1},
    )
    for edit in edits:
        forged = {**sound, **edit}
        (folder / "latents.json").write_text(json.dumps({**forged, "sha256": metadata_digest(forged)}))
        with pytest.raises(UserError, match=r"latents\.json"):
            LatentStore.open(folder)
    (folder / "latents.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"latents\.json"):
        LatentStore.open(folder)


def test_latents_of_a_remote_data_set_are_read_there_or_made_here(
    dataset: Dataset, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    options = RemoteOptions(cache_folder=tmp_path / "node", cache_bytes=1 << 20, block_bytes=5000)
    there = LatentCache(dataset, tiny_diffusion_folder, shard_items=4).cache("pooled-class").store
    remote = Dataset.open(f"file://{dataset.folder}", remote_options=options)
    found = remote.latents("pooled-class", model=str(tiny_diffusion_folder))
    assert torch.equal(found.get(range(14)), there.get(range(14)))
    assert list(verify(f"file://{dataset.folder}")) == []
    with pytest.raises(UserError, match="neuroimagen cache --data file://"):
        remote.latents("text-class", model=str(tiny_diffusion_folder))
    made = LatentCache(remote, tiny_diffusion_folder).cache("text-class").store
    assert made.folder.is_relative_to(tmp_path / "node")
    assert remote.latents("text-class", model=str(tiny_diffusion_folder)).folder == made.folder
    assert not list((dataset.folder / "latents").glob("text-class-*"))


def test_nan_names_the_stimulus_and_leaves_nothing(
    dataset: Dataset, tiny_diffusion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = LatentCache._encode

    def overflowing_encode(self: LatentCache, kind: str, items: object, rows: range, pictures: object) -> object:
        latents, texts = encode(self, kind, items, rows, pictures)
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
    kinds, reasons = applicable_kinds(dataset, tiny_diffusion_folder)
    assert kinds == ["vae", "text-class", "text-detailed", "pooled-class", "pooled-detailed", "image"]
    assert set(reasons) == {"text-blip", "pooled-blip"}
    bare = shutil.copytree(tiny_diffusion_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("clip"))
    kinds, reasons = applicable_kinds(dataset, bare, captioner=tiny_blip_folder)
    assert kinds == [kind for kind in KINDS if kind != "image"]
    assert applicable_kinds(dataset, bare, clip=tiny_diffusion_folder / "clip")[0][-1] == "image"


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

    @pytest.mark.parametrize(
        ("kind", "weights"),
        [("vae", "vae/diffusion_pytorch_model.safetensors"), ("text-class", "text_encoder/model.safetensors")],
    )
    def test_truncated_weights(self, dataset: Dataset, model: Path, kind: str, weights: str) -> None:
        content = (model / weights).read_bytes()
        (model / weights).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=f"cannot load the model in .*{Path(weights).parent}"):
            LatentCache(dataset, model).cache(kind)

    def test_missing_weights_do_not_become_random(self, dataset: Dataset, model: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = model / "text_encoder" / "model.safetensors"
        weights = load_file(path)
        dropped = sorted(weights)[3]
        save_file({name: value for name, value in weights.items() if name != dropped}, path, metadata={"format": "pt"})
        with pytest.raises(UserError, match=f"text_encoder lacks the weights .*{dropped}"):
            LatentCache(dataset, model).cache("text-class")

    def test_pickled_weights_are_refused(self, dataset: Dataset, model: Path) -> None:
        (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        torch.save({}, model / "vae" / "diffusion_pytorch_model.bin")
        with pytest.raises(UserError, match=r"cannot load the model in .*vae"):
            LatentCache(dataset, model).cache("vae")

    def test_captioner_of_another_kind(self, dataset: Dataset, model: Path) -> None:
        with pytest.raises(UserError, match="holds a model of type 'clip', not BLIP's"):
            LatentCache(dataset, model, captioner=model / "clip")

    def test_blip_captions_without_a_captioner(self, dataset: Dataset, model: Path) -> None:
        with pytest.raises(UserError, match="--blip"):
            LatentCache(dataset, model).cache("text-blip")

    def test_image_without_clip(self, dataset: Dataset, model: Path) -> None:
        shutil.rmtree(model / "clip")
        with pytest.raises(UserError, match="no CLIP model with an image tower"):
            LatentCache(dataset, model).cache("image")
