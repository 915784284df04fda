"""Rows of pictures: what each is made from, seeds, batches, folders, interruption, mistakes; untrained networks."""

import dataclasses
import errno
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.reconstruction import writing as reconstruction_folder
from neuroimagen.trainer.reconstruction.latent_diffusion import LatentDiffusion
from neuroimagen.trainer.reconstruction.manifest import read_manifest, read_picture
from neuroimagen.trainer.reconstruction.reconstruct import ROWS, Picture, ReconstructConfig, Reconstructor, RowName
from neuroimagen.trainer.reconstruction.writing import write_row

CONFIG = ReconstructConfig(steps=4, batch_size=3, guidance=2.0, strength=0.75)
NETWORK = {
    "n_channels": 6,
    "n_samples": 20,
    "encoder": dataclasses.asdict(encoder_config(feature_size=8, kernel_samples=5, stride_samples=2)),
}


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    """A run with the exports of untrained saliency, semantic and diffusion stages for the tiny data set and model. Read
    only.
    """
    run = tmp_path_factory.mktemp("runs") / "run"
    torch.manual_seed(0)
    saliency = SaliencyModel(encoder=NETWORK, noise_size=5, image_size_px=16, width=16)
    saliency.save_pretrained(run / "saliency" / "export")
    for name in ("semantic", "semantic_detailed", "diffusion"):
        semantic = SemanticModel(encoder=NETWORK, text_shape=(24, 32), hidden_size=8, head_dropout=0.0)
        semantic.save_pretrained(run / name / "export")
    shutil.copytree(tiny_diffusion_folder / "unet", run / "diffusion" / "export" / "unet")
    return run


@pytest.fixture
def make(
    trained_run: Path, tiny_dataset_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path
) -> Callable[..., Reconstructor]:
    """make(**changes of CONFIG) → a Reconstructor in a run of this test's own."""
    run = shutil.copytree(trained_run, tmp_path / "run")

    def make(**changes: object) -> Reconstructor:
        config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
        return Reconstructor(run, Dataset.open(tiny_dataset_folder), tiny_diffusion_folder, config)

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def close(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal up to one grey level: what another batch's rounding may do."""
    return int(np.abs(first.astype(int) - second.astype(int)).max()) <= 1


def test_the_configuration_s_rows_are_the_rows() -> None:
    assert get_args(RowName) == tuple(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_written_whole(make: Callable[..., Reconstructor], name: str) -> None:
    reconstructor = make(samples=2)
    row = write_row(reconstructor, name)
    manifest = read_manifest(row.folder)
    random = name not in ("vae_round_trip", "mean_image")
    assert manifest.row == name
    assert len(manifest) == row.num_pictures == 6 * (2 if random else 1)
    assert manifest.samples.tolist() == ([0, 1] * 6 if random else [0] * 6)
    assert all(read_picture(path).shape == (3, 32, 32) for path in manifest.files)
    dataset = reconstructor.dataset
    rows = [int(segment.lstrip("s")) for segment in manifest.segments]
    assert set(rows) == set(dataset.rows("test").tolist())
    assert manifest.labels.tolist() == dataset.index.label[rows].tolist()
    assert manifest.subjects.tolist() == dataset.index.subject[rows].tolist()
    assert list(manifest.stimulus_keys) == [dataset.stimuli.keys[index] for index in dataset.index.stimulus[rows]]
    assert {path.name for path in row.folder.iterdir()} == {path.name for path in manifest.files} | {"manifest.json"}
    assert not list(row.folder.parent.glob(".*"))


def test_full_is_the_pipeline_by_hand(make: Callable[..., Reconstructor]) -> None:
    """Saliency map → image size → VAE → noise → denoising with the hidden states → picture, step by step."""
    reconstructor = make()
    pictures = reconstructor.pictures("full")[:2]
    eeg = torch.from_numpy(np.stack([reconstructor.dataset.eeg(picture.row) for picture in pictures]))
    run, diffusion = reconstructor.run, reconstructor.diffusion
    z = reconstructor._normal("saliency", pictures, (5,))
    with torch.inference_mode():
        maps = SaliencyModel.from_pretrained(run / "saliency" / "export")(eeg, z)
        hidden = SemanticModel.from_pretrained(run / "semantic" / "export")(eeg)
        resized = torch.nn.functional.interpolate(maps, size=(32, 32), mode="bilinear")
        latents = diffusion.denoise(
            reconstructor.noise(pictures),
            hidden,
            start=diffusion.vae.vae.encode(resized).latent_dist.mode() * 0.7,
            strength=0.75,
            guidance=2.0,
            steps=4,
            scheduler="dpm-solver++",
        )
        expected = ((diffusion.decode(latents) + 1) * 127.5).round().numpy()
    assert close(reconstructor.draw("full", pictures), expected)


def test_rows_without_denoising(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make()
    dataset, diffusion = reconstructor.dataset, reconstructor.diffusion
    pictures = reconstructor.pictures("vae_round_trip")[:3]
    stimuli = dataset.index.stimulus[[picture.row for picture in pictures]]
    images = dataset.stimuli.images(stimuli, 32)
    with torch.inference_mode():
        latents = diffusion.encode(torch.from_numpy(images) / 127.5 - 1)
        expected = ((diffusion.decode(latents) + 1) * 127.5).round().numpy()
    assert close(reconstructor.draw("vae_round_trip", pictures), expected)

    train = np.unique(dataset.index.stimulus[dataset.rows("train")])
    mean = dataset.stimuli.images(train, 32).astype(np.float64).mean(0)
    assert close(reconstructor.draw("mean_image", pictures[:1])[0], mean.round())

    with torch.inference_mode():
        maps = torch.nn.functional.interpolate(reconstructor.maps(pictures), size=(32, 32), mode="bilinear")
    assert close(reconstructor.draw("saliency_only", pictures), ((maps + 1) * 127.5).round().numpy())


def test_oracle_and_floor_take_their_class_from_the_label(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make()
    dataset, pictures = reconstructor.dataset, reconstructor.pictures("oracle_class")
    rows = np.array([picture.row for picture in pictures])
    captions = [dataset.stimuli.captions[index] for index in dataset.index.stimulus[rows]]
    hidden = reconstructor._hidden("true class", pictures, rows)
    torch.testing.assert_close(hidden, reconstructor.diffusion.prompt(captions), rtol=1e-5, atol=1e-5)
    drawn = [make(seed=seed)._random_labels(pictures) for seed in range(40)]
    assert set(np.concatenate(drawn)) == set(range(12))
    assert np.mean(np.array(drawn) == dataset.index.label[rows]) == pytest.approx(1 / 12, abs=0.06)


def test_noise_is_exactly_the_segment_s_own(make: Callable[..., Reconstructor]) -> None:
    """Whatever the batch and the order; another sample, segment or seed has other noise."""
    reconstructor = make()
    pictures = [Picture(row=row, sample=sample) for row in (3, 8, 11) for sample in (0, 1)]
    noise = reconstructor.noise(pictures)
    for position, picture in enumerate(pictures):
        assert torch.equal(reconstructor.noise([picture])[0], noise[position])
    assert torch.equal(reconstructor.noise(pictures[::-1]), noise.flip(0))
    others = make(seed=1).noise(pictures)
    assert torch.cat([noise, others]).flatten(1).unique(dim=0).shape[0] == 12
    assert abs(float(noise.mean())) < 0.1
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", ["full", "semantic_only"])
def test_pictures_do_not_depend_on_the_batch(make: Callable[..., Reconstructor], name: str) -> None:
    reconstructor = make()
    pictures = reconstructor.pictures(name)
    together = reconstructor.draw(name, pictures)
    alone = np.concatenate([reconstructor.draw(name, [picture]) for picture in pictures])
    assert close(together, alone)
    assert not close(together[0], together[1])


def test_the_same_seed_gives_the_same_bytes(make: Callable[..., Reconstructor]) -> None:
    first = write_row(make(), "full")
    before = files(first.folder)
    shutil.rmtree(first.folder)
    assert files(write_row(make(), "full").folder) == before
    shutil.rmtree(first.folder)
    other = files(write_row(make(seed=1), "full").folder)
    assert all(other[name] != content for name, content in before.items())


def test_interrupted_it_continues_to_the_same_bytes(
    make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = write_row(make(), "full")
    expected = files(undisturbed.folder)
    shutil.rmtree(undisturbed.folder)
    drawn: list[int] = []
    draw = Reconstructor.draw

    def interrupted_draw(self: Reconstructor, name: str, pictures: list[Picture]) -> np.ndarray:
        if len(drawn) >= 3:
            raise KeyboardInterrupt
        drawn.extend(picture.row for picture in pictures)
        return draw(self, name, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(Reconstructor, "draw", interrupted_draw)
        with pytest.raises(KeyboardInterrupt):
            write_row(make(), "full")
    folder = undisturbed.folder
    assert not folder.exists()
    (part,) = folder.parent.glob(".full-*.part")
    (part / ".s000001_0.png.part").write_bytes(b"half")

    def counted_draw(self: Reconstructor, name: str, pictures: list[Picture]) -> np.ndarray:
        drawn.extend(picture.row for picture in pictures)
        return draw(self, name, pictures)

    monkeypatch.setattr(Reconstructor, "draw", counted_draw)
    write_row(make(), "full")
    assert drawn == make().dataset.rows("test").tolist()  # nothing twice, nothing left out
    assert files(folder) == expected
    assert not list(folder.parent.glob(".*"))


def test_without_a_batch_size_the_row_keeps_the_one_it_began_with(
    make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever memory is free when it goes on: batches of the same composition, so the same bytes."""
    expected = files(write_row(make(batch_size=4), "full").folder)
    shutil.rmtree(make().run / "reconstructions")
    drawn: list[int] = []
    draw, fits = Reconstructor.draw, iter([4, 2])

    def interrupted_draw(self: Reconstructor, name: str, pictures: list[Picture]) -> np.ndarray:
        drawn.append(len(pictures))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(self, name, pictures)

    monkeypatch.setattr(Reconstructor, "draw", interrupted_draw)
    monkeypatch.setattr(LatentDiffusion, "largest_batch_size", lambda self, **settings: next(fits))
    with pytest.raises(KeyboardInterrupt):
        write_row(make(batch_size=None), "full")
    assert files(write_row(make(batch_size=None), "full").folder) == expected
    assert drawn == [4, 2, 2]
    write_row(make(batch_size=None), "oracle_class")
    assert drawn == [4, 2, 2, 2, 2, 2]  # another row, another look at what is free


def test_without_a_batch_size_a_cpu_draws_32_at_once(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make(batch_size=None)
    assert {reconstructor.batch_size(name) for name in ROWS} == {32}
    assert make(batch_size=5).batch_size("full") == 5


def test_pictures_are_written_while_the_next_are_drawn(
    make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch's writing ends only once the second is being drawn: in one thread that would never be."""
    second = threading.Event()
    draw, write, drawn = Reconstructor.draw, reconstruction_folder._write_png, []

    def telling_draw(self: Reconstructor, name: str, pictures: list[Picture]) -> np.ndarray:
        drawn.append(name)
        if len(drawn) == 2:
            second.set()
        return draw(self, name, pictures)

    def waiting_write(path: Path, picture: np.ndarray) -> None:
        assert second.wait(60)
        write(path, picture)

    monkeypatch.setattr(Reconstructor, "draw", telling_draw)
    monkeypatch.setattr(reconstruction_folder, "_write_png", waiting_write)
    assert write_row(make(), "saliency_only").made


def test_a_full_disk_is_one_clear_line_from_any_thread(
    make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, picture: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(reconstruction_folder, "_write_png", full)
        with pytest.raises(UserError, match=r"saliency_only: No space left on device\. Free space"):
            write_row(make(), "saliency_only")
    assert write_row(make(), "saliency_only").made


def test_compiled_pictures_are_the_same(make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last, smaller batch is drawn by what is not compiled. (The backend that makes nothing faster is tested.)"""
    plain = write_row(make(batch_size=4), "full").folder
    expected = {name: read_picture(plain / name) for name in files(plain) if name.endswith(".png")}
    shutil.rmtree(plain)
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    compiled = make(batch_size=4, compile=True)
    load = LatentDiffusion.__init__

    def load_with_backend(self: LatentDiffusion, *args: object, compile_backend: str, **options: object) -> None:
        assert compile_backend == "inductor"
        load(self, *args, compile_backend=backend, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LatentDiffusion, "__init__", load_with_backend)
    folder = write_row(compiled, "full").folder
    assert len(graphs) == 2  # the U-Net and the decoder, for four pictures
    assert len(expected) == 6
    assert all(close(read_picture(folder / name), picture) for name, picture in expected.items())
    with pytest.raises(UserError, match=r"reconstruct\.compile cannot differ"):
        compiled.with_config(dataclasses.replace(compiled.config, compile=False))


def test_too_small_a_gpu_is_one_clear_line(make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted_draw(*_: object) -> np.ndarray:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Reconstructor, "draw", exhausted_draw)
    with pytest.raises(UserError, match=r"3 pictures at once do not fit .* Lower reconstruct\.batch_size"):
        write_row(make(), "full")


def test_a_row_is_kept_refused_or_replaced_never_mixed(make: Callable[..., Reconstructor]) -> None:
    assert write_row(make(), "semantic_only").made
    assert not write_row(make(batch_size=2), "semantic_only").made
    assert not write_row(make(strength=0.5), "semantic_only").made  # there is no strength in it
    with pytest.raises(
        UserError, match=r"semantic_only was made with other settings: guidance 2\.0 → 3\.0.*--overwrite"
    ):
        write_row(make(guidance=3.0), "semantic_only")
    before = files(make().run / "reconstructions" / "semantic_only")
    replaced = write_row(make(guidance=3.0), "semantic_only", overwrite=True)
    assert files(replaced.folder) != before
    assert not list(replaced.folder.parent.glob(".*"))


def test_a_stage_trained_again_makes_its_rows_stale(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make()
    for name in ("saliency_only", "semantic_only"):
        write_row(reconstructor, name)
    torch.manual_seed(1)
    again = SaliencyModel(encoder=NETWORK, noise_size=5, image_size_px=16, width=16)
    again.save_pretrained(reconstructor.export("saliency"))
    assert not write_row(make(), "semantic_only").made
    with pytest.raises(UserError, match="saliency_only was made with other settings: exports"):
        write_row(make(), "saliency_only")


def test_ranks_share_the_batches(make: Callable[..., Reconstructor]) -> None:
    alone = files(write_row(make(batch_size=2), "full").folder)
    shutil.rmtree(make().run / "reconstructions")
    barrier = threading.Barrier(2, timeout=120)
    reconstructors = [make(batch_size=2), make(batch_size=2)]
    for reconstructor in reconstructors:
        # Threads stand in for processes here, and the libraries load in one thread only.
        reconstructor.draw("full", reconstructor.pictures("full")[:1])

    def work(rank: int) -> None:
        write_row(reconstructors[rank], "full", ranks=ProcessShare(rank=rank, world_size=2, wait=barrier.wait))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
    assert files(make().run / "reconstructions" / "full") == alone


def test_rows_follow_what_was_trained(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make()
    assert reconstructor.rows() == (list(ROWS), {})
    shutil.rmtree(reconstructor.export("fine_tuned"))
    shutil.rmtree(reconstructor.export("semantic_detailed"))
    names, left_out = reconstructor.rows()
    assert set(left_out) == {"fine_tuned", "full_fine_tuned", "full_detailed", "semantic_only_detailed"}
    assert len(names) == 8
    with pytest.raises(UserError, match=r"full_detailed cannot be made: .*semantic_detailed/export does not exist"):
        make(rows=("full_detailed",)).rows()
    assert make(rows=("full",)).rows() == (["full"], {})
    shutil.rmtree(reconstructor.export("saliency"))
    with pytest.raises(UserError, match="saliency/export does not exist"):
        reconstructor.rows()


def test_networks_of_other_data_or_another_model_are_refused(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make()
    wide = {**NETWORK, "n_channels": 7}
    SaliencyModel(encoder=wide, noise_size=5, image_size_px=16, width=16).save_pretrained(
        reconstructor.export("saliency")
    )
    with pytest.raises(
        UserError, match=r"saliency/export reads EEG of 7 channels × 20 samples, the data set has 6 × 20"
    ):
        reconstructor.draw("saliency_only", [Picture(row=0)])
    other = SemanticModel(encoder=NETWORK, text_shape=(77, 32), hidden_size=8, head_dropout=0.0)
    other.save_pretrained(reconstructor.export("semantic"))
    with pytest.raises(UserError, match=r"hidden states of shape \(77, 32\), the text encoder of .* has \(24, 32\)"):
        reconstructor.draw("semantic_only", [Picture(row=0)])


def test_a_damaged_manifest_is_not_taken_for_done(make: Callable[..., Reconstructor]) -> None:
    row = write_row(make(), "mean_image")
    (row.folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="made with other settings"):
        write_row(make(), "mean_image")
    assert write_row(make(), "mean_image", overwrite=True).made
    assert read_picture(row.folder / "mean.png").shape == (3, 32, 32)
    assert json.loads((row.folder / "manifest.json").read_text())["row"] == "mean_image"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.0}, "strength must lie in"),
        ({"strength": 1.2}, "strength must lie in"),
        ({"strength": 0.1, "steps": 5}, "leaves no denoising step"),
        ({"guidance": 0.5}, "guidance must be at least 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, or null"),
    ],
)
def test_configuration_says_what_is_wrong(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReconstructConfig(**changes)  # type: ignore[arg-type]
