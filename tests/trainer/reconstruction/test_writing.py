"""A condition in its folder: whole, continued, kept or replaced, shared by ranks, mistakes; untrained networks."""

import errno
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from untrained_run import close, files, network

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.reconstruction import writing
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS
from neuroimagen.trainer.reconstruction.manifest import read_image, read_manifest
from neuroimagen.trainer.reconstruction.noise import SegmentSample
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor
from neuroimagen.trainer.reconstruction.writing import write_condition


@pytest.mark.parametrize("name", IMAGE_CONDITIONS)
def test_every_condition_is_written_whole(make_image: Callable[..., Reconstructor], name: str) -> None:
    reconstructor = make_image(samples=2)
    written = write_condition(reconstructor, name)
    manifest = read_manifest(written.folder)
    random = name not in ("vae_round_trip", "mean_image", "vae_latent_only")
    assert manifest.condition == name
    assert len(manifest) == written.num_images == 6 * (2 if random else 1)
    assert manifest.samples.tolist() == ([0, 1] * 6 if random else [0] * 6)
    assert all(read_image(path).shape == (3, 32, 32) for path in manifest.files)
    dataset = reconstructor.dataset
    rows = [int(segment.lstrip("s")) for segment in manifest.segments]
    assert set(rows) == set(dataset.rows("test").tolist())
    assert manifest.labels.tolist() == dataset.index.label[rows].tolist()
    assert manifest.subjects.tolist() == dataset.index.subject[rows].tolist()
    assert list(manifest.stimulus_keys) == [dataset.stimuli.keys[index] for index in dataset.index.stimulus[rows]]
    assert {path.name for path in written.folder.iterdir()} == {path.name for path in manifest.files} | {
        "manifest.json"
    }
    assert not list(written.folder.parent.glob(".*"))


def test_the_same_seed_gives_the_same_bytes(make: Callable[..., Reconstructor]) -> None:
    first = write_condition(make(), "full")
    before = files(first.folder)
    shutil.rmtree(first.folder)
    assert files(write_condition(make(), "full").folder) == before
    shutil.rmtree(first.folder)
    other = files(write_condition(make(seed=1), "full").folder)
    assert all(other[name] != content for name, content in before.items())


def test_interrupted_it_continues_to_the_same_bytes(
    make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = write_condition(make(), "full")
    expected = files(undisturbed.folder)
    shutil.rmtree(undisturbed.folder)
    drawn: list[int] = []
    draw = Reconstructor.draw

    def interrupted_draw(self: Reconstructor, name: str, items: list[SegmentSample]) -> np.ndarray:
        if len(drawn) >= 3:
            raise KeyboardInterrupt
        drawn.extend(item.row for item in items)
        return draw(self, name, items)

    with monkeypatch.context() as patch:
        patch.setattr(Reconstructor, "draw", interrupted_draw)
        with pytest.raises(KeyboardInterrupt):
            write_condition(make(), "full")
    folder = undisturbed.folder
    assert not folder.exists()
    (unfinished,) = folder.parent.glob(".full-*.part")
    (unfinished / ".s000001_0.png.part").write_bytes(b"half")

    def counted_draw(self: Reconstructor, name: str, items: list[SegmentSample]) -> np.ndarray:
        drawn.extend(item.row for item in items)
        return draw(self, name, items)

    monkeypatch.setattr(Reconstructor, "draw", counted_draw)
    write_condition(make(), "full")
    assert drawn == make().dataset.rows("test").tolist()  # nothing twice, nothing left out
    assert files(folder) == expected
    assert not list(folder.parent.glob(".*"))


def test_without_a_batch_size_the_condition_keeps_the_one_it_began_with(
    make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever memory is free when it goes on: batches of the same composition, so the same bytes."""
    expected = files(write_condition(make(batch_size=4), "full").folder)
    shutil.rmtree(make().run / "reconstructions")
    drawn: list[int] = []
    draw, fits = Reconstructor.draw, iter([4, 2])

    def interrupted_draw(self: Reconstructor, name: str, items: list[SegmentSample]) -> np.ndarray:
        drawn.append(len(items))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(self, name, items)

    monkeypatch.setattr(Reconstructor, "draw", interrupted_draw)
    monkeypatch.setattr(Generator, "largest_batch_size", lambda self, **settings: next(fits))
    with pytest.raises(KeyboardInterrupt):
        write_condition(make(batch_size=None), "full")
    assert files(write_condition(make(batch_size=None), "full").folder) == expected
    assert drawn == [4, 2, 2]
    write_condition(make(batch_size=None), "oracle_class")
    assert drawn == [4, 2, 2, 2, 2, 2]  # another condition, another look at what is free


def test_images_are_written_while_the_next_are_drawn(
    make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch's writing ends only once the second is being drawn: in one thread that would never be."""
    second = threading.Event()
    draw, write, drawn = Reconstructor.draw, writing._write_png, []

    def telling_draw(self: Reconstructor, name: str, items: list[SegmentSample]) -> np.ndarray:
        drawn.append(name)
        if len(drawn) == 2:
            second.set()
        return draw(self, name, items)

    def waiting_write(path: Path, image: np.ndarray) -> None:
        assert second.wait(60)
        write(path, image)

    monkeypatch.setattr(Reconstructor, "draw", telling_draw)
    monkeypatch.setattr(writing, "_write_png", waiting_write)
    assert write_condition(make(), "saliency_only").made


def test_a_full_disk_is_one_clear_line_from_any_thread(
    make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, image: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_write_png", full)
        with pytest.raises(UserError, match=r"saliency_only: No space left on device\. Free space"):
            write_condition(make(), "saliency_only")
    assert write_condition(make(), "saliency_only").made


def test_compiled_images_are_the_same(make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last, smaller batch is drawn by what is not compiled. (The backend that makes nothing faster is tested.)"""
    plain = write_condition(make(batch_size=4), "full").folder
    expected = {name: read_image(plain / name) for name in files(plain) if name.endswith(".png")}
    shutil.rmtree(plain)
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    compiled = make(batch_size=4, compile=True)
    load = Generator.__init__

    def load_with_backend(self: Generator, *args: object, compile_backend: str, **options: object) -> None:
        assert compile_backend == "inductor"
        load(self, *args, compile_backend=backend, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Generator, "__init__", load_with_backend)
    folder = write_condition(compiled, "full").folder
    assert len(graphs) == 2  # the U-Net and the decoder, for four images
    assert len(expected) == 6
    assert all(close(read_image(folder / name), image) for name, image in expected.items())


def test_too_small_a_gpu_is_one_clear_line(make: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted_draw(*_: object) -> np.ndarray:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Reconstructor, "draw", exhausted_draw)
    with pytest.raises(UserError, match=r"3 images at once do not fit .* Lower reconstruct\.batch_size"):
        write_condition(make(), "full")


def test_a_condition_is_kept_refused_or_replaced_never_mixed(make: Callable[..., Reconstructor]) -> None:
    assert write_condition(make(), "semantic_only").made
    assert not write_condition(make(batch_size=2), "semantic_only").made
    assert not write_condition(make(strength=0.5), "semantic_only").made  # there is no strength in it
    with pytest.raises(
        UserError, match=r"semantic_only was made with other settings: guidance 2\.0 → 3\.0.*--overwrite"
    ):
        write_condition(make(guidance=3.0), "semantic_only")
    before = files(make().run / "reconstructions" / "semantic_only")
    replaced = write_condition(make(guidance=3.0), "semantic_only", overwrite=True)
    assert files(replaced.folder) != before
    assert not list(replaced.folder.parent.glob(".*"))


def test_a_folder_of_an_earlier_version_is_kept(make: Callable[..., Reconstructor]) -> None:
    """Its manifest says `row`, and the model's folder had another name then; the digest says that it is the same."""
    manifest = write_condition(make(), "semantic_only").folder / "manifest.json"
    made = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({"row": made.pop("condition"), **made, "model": "embedded_64px"}))
    before = files(manifest.parent)
    assert not write_condition(make(), "semantic_only").made
    assert files(manifest.parent) == before
    manifest.write_text(json.dumps({"row": "semantic_only", **made, "model_digest": "0123456789abcdef"}))
    with pytest.raises(UserError, match="made with other settings: model_digest '0123456789abcdef'"):
        write_condition(make(), "semantic_only")


def test_a_stage_trained_again_makes_its_conditions_stale(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make()
    for name in ("saliency_only", "semantic_only"):
        write_condition(reconstructor, name)
    torch.manual_seed(1)
    again = SaliencyModel(encoder=network(), noise_size=5, image_size_px=16, width=16)
    again.save_pretrained(reconstructor.export("saliency"))
    assert not write_condition(make(), "semantic_only").made
    with pytest.raises(UserError, match="saliency_only was made with other settings: exports"):
        write_condition(make(), "saliency_only")


def test_ranks_share_the_batches(make: Callable[..., Reconstructor]) -> None:
    alone = files(write_condition(make(batch_size=2), "full").folder)
    shutil.rmtree(make().run / "reconstructions")
    barrier = threading.Barrier(2, timeout=120)
    reconstructors = [make(batch_size=2), make(batch_size=2)]
    for reconstructor in reconstructors:
        # Threads stand in for processes here, and the libraries load in one thread only.
        reconstructor.draw("full", reconstructor.segment_samples("full")[:1])

    def work(rank: int) -> None:
        write_condition(reconstructors[rank], "full", ranks=ProcessShare(rank=rank, world_size=2, wait=barrier.wait))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
    assert files(make().run / "reconstructions" / "full") == alone


def test_a_damaged_manifest_is_not_taken_for_done(make: Callable[..., Reconstructor]) -> None:
    written = write_condition(make(), "mean_image")
    (written.folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="made with other settings"):
        write_condition(make(), "mean_image")
    assert write_condition(make(), "mean_image", overwrite=True).made
    assert read_image(written.folder / "mean.png").shape == (3, 32, 32)
    assert json.loads((written.folder / "manifest.json").read_text())["condition"] == "mean_image"
