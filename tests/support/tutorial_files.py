"""Small files of the form that each page's reader has: a BIDS study, THINGS-EEG2, EEGCVPR40, a run and new epochs."""

import shutil
from pathlib import Path

import mne
import numpy as np
import things_files
import yaml
from PIL import Image, ImageDraw
from recording_files import write_brainvision
from source_files import write_table

CHANNELS = ("Fz", "Cz", "Pz", "Oz", "P7", "P8", "O1", "O2")
SFREQ = 250.0


def draw_shape(path: Path, name: str, rng: np.random.Generator) -> None:
    """A circle or a square of a random colour and place, 64 px."""
    image = Image.new("RGB", (64, 64), tuple(rng.integers(160, 256, 3).tolist()))
    x, y = rng.integers(8, 32, 2).tolist()
    box = [x, y, x + 24, y + 24]
    colour = tuple(rng.integers(0, 100, 3).tolist())
    draw = ImageDraw.Draw(image)
    (draw.ellipse if name == "circle" else draw.rectangle)(box, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def responses(labels: np.ndarray, onsets_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """EEG in µV [channels, samples]: noise, and after each onset a response that depends on the class."""
    n = int((onsets_s[-1] + 3) * SFREQ)
    eeg = 10 * rng.standard_normal((len(CHANNELS), n))
    time = np.arange(int(0.5 * SFREQ)) / SFREQ
    course = np.exp(-0.5 * ((time - 0.2) / 0.05) ** 2)
    patterns = np.random.default_rng(7).standard_normal((2, len(CHANNELS)))
    for label, onset in zip(labels, onsets_s, strict=True):
        start = int(onset * SFREQ)
        eeg[:, start : start + len(time)] += 20 * patterns[label][:, None] * course
    return eeg


def write_bids(root: Path, *, subjects: int = 2, images: int = 20) -> Path:
    """Two subjects see `images` circles and as many squares, each once, in a random order."""
    rng = np.random.default_rng(0)
    names = [
        (label, f"{name}/{number:02d}.png")
        for label, name in enumerate(("circle", "square"))
        for number in range(images)
    ]
    for label, name in names:
        draw_shape(root / "stimuli" / name, ("circle", "square")[label], rng)
    write_table(root / "participants.tsv", [{"participant_id": f"sub-{number + 1:02d}"} for number in range(subjects)])
    for number in range(subjects):
        order = [names[place] for place in rng.permutation(len(names))]
        onsets = 2 + 1.2 * np.arange(len(order))
        folder = root / f"sub-{number + 1:02d}" / "eeg"
        stem = folder / f"sub-{number + 1:02d}_task-objects"
        eeg = responses(np.array([label for label, _ in order]), onsets, rng)
        write_brainvision(Path(f"{stem}_eeg.vhdr"), eeg, CHANNELS, [], SFREQ)
        rows = [
            {"onset": round(onset, 3), "duration": 0.8, "stim_file": name, "category": name.partition("/")[0]}
            for onset, (_, name) in zip(onsets.tolist(), order, strict=True)
        ]
        write_table(Path(f"{stem}_events.tsv"), rows)
    return root


def write_new_epochs(path: Path, *, names: tuple[str, ...], sfreq: float, samples: int) -> Path:
    """Two epochs of noise from −0.1 s on, in volts."""
    noise = np.random.default_rng(1).standard_normal((2, len(names), samples)) * 1e-5
    info = mne.create_info(list(names), sfreq, "eeg")
    mne.EpochsArray(noise, info, tmin=-0.1, baseline=None, verbose="ERROR").save(path, verbose="ERROR")
    return path


def write_things(folder: Path) -> None:
    """Preprocessed_data_250Hz/ and image_set/, as NICE, ATM and others have them; EEG of noise."""
    things_files.write_images(folder / "image_set")
    rng = np.random.default_rng(2)
    for half, images in (("train", 12), ("test", 3)):
        eeg = rng.standard_normal((images, 4, len(things_files.USUAL_CHANNELS), 250))
        things_files.write_dictionary(folder / "Preprocessed_data_250Hz", 1, half, eeg, plain=True)


def write_cvpr40(folder: Path) -> None:
    """The EEG file, the split file and ILSVRC/: a simulated study of two subjects and three classes."""
    from simulated_study import simulated_study

    from neuroimagen.data_shards.simulator.write_study import write_eegcvpr40

    write_eegcvpr40(simulated_study(images_per_class=8, design="block"), folder / "raw", workers=1)
    for name in ("eeg_5_95_std.pth", "block_splits_by_image_all.pth"):
        shutil.move(folder / "raw" / name, folder / name)
    shutil.move(folder / "raw" / "images", folder / "ILSVRC")


def link_models(folder: Path, diffusion: Path, blip: Path) -> None:
    """models/ with the tiny networks under the names of the published ones."""
    models = folder / "models"
    models.mkdir()
    (models / "stable-diffusion-v1-5").symlink_to(diffusion)
    (models / "blip-image-captioning-base").symlink_to(blip)
    (models / "clip-vit-large-patch14").symlink_to(diffusion / "clip")
    (models / "vit-base-patch16-224").symlink_to(diffusion / "classifier")


def copy_run(folder: Path, *, run: Path, data: Path) -> None:
    """runs/first, runs/mine, data/first and new-epo.fif: what the pages on Python and the README name."""
    shutil.copytree(run, folder / "runs" / "first")
    (folder / "runs" / "mine").symlink_to("first")
    shutil.copytree(data, folder / "data" / "first")
    config = folder / "runs" / "first" / "config.yaml"
    recipe = yaml.safe_load(config.read_text())
    recipe["data"]["path"] = "data/first"
    config.write_text(yaml.safe_dump(recipe))
