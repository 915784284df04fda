"""A small THINGS-EEG2 in every form, written by the calls that the public preprocessing uses, not by ours.

Two subjects, 4 sessions; 6 training concepts × 2 images, each shown twice in two of the sessions; 3 test concepts with
one image each, shown twice in every session; one target a file.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from source_files import write_image

TRAIN_CONCEPTS = [f"{c + 1:05d}_thing_{c}" for c in range(6) for _ in range(2)]
TRAIN_FILES = [f"thing_{n // 2}_{n:02d}s.jpg" for n in range(12)]
TEST_CONCEPTS = [f"{c + 1:05d}_new_{c}" for c in range(3)]
TEST_FILES = [f"new_{n}_01b.jpg" for n in range(3)]
CHANNELS = ["P7", "Fp1", "Cz", "O1", "Oz"]
"""As the raw files have them; the preprocessed ones are in the usual order."""
USUAL_CHANNELS = ["Fp1", "Cz", "P7", "O1", "Oz"]
TIMES = np.arange(300) / 250 - 0.2
"""What every preprocessed form says: 300 entries for 250 samples."""
TARGET = 99_999


def write_images(folder: Path, *, metadata: bool = True, train_folder: str = "training_images") -> Path:
    """The image folder, with or without image_metadata.npy."""
    for place, (concept, name) in enumerate(zip(TRAIN_CONCEPTS, TRAIN_FILES, strict=True)):
        write_image(folder / train_folder / concept / name, place)
    for place, (concept, name) in enumerate(zip(TEST_CONCEPTS, TEST_FILES, strict=True)):
        write_image(folder / "test_images" / concept / name, 100 + place)
    if metadata:
        content = {
            "train_img_concepts": TRAIN_CONCEPTS,
            "train_img_files": TRAIN_FILES,
            "test_img_concepts": TEST_CONCEPTS,
            "test_img_files": TEST_FILES,
        }
        np.save(folder / "image_metadata.npy", content)
    return folder


def write_raw(root: Path, subjects: tuple[int, ...] = (1, 2)) -> Path:
    """Raw_data/sub-01/ses-01/raw_eeg_training.npy …: np.save of a dictionary, as the authors have it."""
    for subject in subjects:
        for session in range(4):
            folder = root / f"sub-{subject:02d}" / f"ses-{session + 1:02d}"
            folder.mkdir(parents=True)
            rng = np.random.default_rng(10 * subject + session)
            shown = {"training": list(range(1 + session % 2, 13, 2)) * 2, "test": [1, 2, 3] * 2}
            for word, codes in shown.items():
                order = [*rng.permutation(codes).tolist(), TARGET]
                n = 500 + 200 * len(order) + 1200
                mixing = np.eye(5) + 0.4 * rng.standard_normal((5, 5))
                noise = np.cumsum(rng.standard_normal((5, n)), axis=1) * 0.05 + rng.standard_normal((5, n))
                stim = np.zeros(n)
                stim[500 + 200 * np.arange(len(order))] = order
                content = {
                    "raw_eeg_data": np.vstack([mixing @ noise * 1e-5, stim]),
                    "ch_names": [*CHANNELS, "stim"],
                    "ch_types": ["eeg"] * 5 + ["stim"],
                    "sfreq": 1000,
                    "highpass": 0.01,
                    "lowpass": 100,
                }
                np.save(folder / f"raw_eeg_{word}.npy", content)
    return root


def whitened_by_the_usual_code(root: Path, subject: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Half → EEG float64 [images, repetitions, C, 250] and sessions (from 0) of a subject's raw recordings.

    The steps of the public preprocessing, on all epochs at once; repetitions stay in the order of time.
    """
    import mne
    import scipy.linalg
    from sklearn.discriminant_analysis import _cov

    parts: dict[str, list[Any]] = {"training": [], "test": []}
    for session in range(4):
        epoched = {}
        for word in parts:
            path = root / f"sub-{subject:02d}" / f"ses-{session + 1:02d}" / f"raw_eeg_{word}.npy"
            content = np.load(path, allow_pickle=True).item()
            with mne.utils.use_log_level("ERROR"):
                info = mne.create_info(content["ch_names"], content["sfreq"], content["ch_types"])
                raw = mne.io.RawArray(content["raw_eeg_data"], info)
                events = mne.find_events(raw, stim_channel="stim")
                events = events[events[:, 2] != TARGET]
                raw.pick(USUAL_CHANNELS)
                raw.reorder_channels(USUAL_CHANNELS)
                epochs = mne.Epochs(raw, events, tmin=-0.2, tmax=1.0, baseline=(None, 0), preload=True)
                epochs.resample(250)
            epoched[word] = (epochs.get_data(copy=True)[:, :, -250:], epochs.events[:, 2])
        data, codes = epoched["training"]
        covariance = np.mean(
            [
                np.mean([_cov(epoch.T, shrinkage="auto") for epoch in data[codes == code]], axis=0)
                for code in np.unique(codes)
            ],
            axis=0,
        )
        whitening = scipy.linalg.fractional_matrix_power(covariance, -0.5)
        for word, (data, codes) in epoched.items():
            parts[word].append(((data.swapaxes(1, 2) @ whitening).swapaxes(1, 2), codes, session))
    merged = {}
    for word, half in (("training", "train"), ("test", "test")):
        eeg = np.concatenate([data for data, _, _ in parts[word]])
        code = np.concatenate([codes for _, codes, _ in parts[word]])
        session = np.concatenate([np.full(len(codes), of) for _, codes, of in parts[word]])
        images = range(1, code.max() + 1)
        merged[half] = (
            np.stack([eeg[code == image] for image in images]),
            np.stack([session[code == image] for image in images]),
        )
    return merged


def write_dictionary(root: Path, subject: int, half: str, eeg: np.ndarray, *, plain: bool, **changes: Any) -> Path:
    """preprocessed_eeg_*.npy: np.save, or the plain pickle of NICE and after."""
    path = root / f"sub-{subject:02d}" / f"preprocessed_eeg_{'training' if half == 'train' else 'test'}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"preprocessed_eeg_data": eeg, "ch_names": USUAL_CHANNELS, "times": TIMES, **changes}
    if plain:
        with path.open("wb") as file:
            pickle.dump(content, file, protocol=4)
    else:
        np.save(path, content)
    return path


def write_pt(root: Path, subject: int, half: str, eeg: np.ndarray, session: np.ndarray, **changes: Any) -> Path:
    """train.pt and test.pt: torch.save with pickle protocol 5, one image name, label and session a trial."""
    import torch

    concepts, files = (TRAIN_CONCEPTS, TRAIN_FILES) if half == "train" else (TEST_CONCEPTS, TEST_FILES)
    names = np.array([f"{half}_images/{concept}/{file}" for concept, file in zip(concepts, files, strict=True)])
    labels = np.array([sorted(set(concepts)).index(concept) for concept in concepts])
    repeated = (1, eeg.shape[1])
    content = {
        "eeg": eeg.astype(np.float16),
        "label": np.tile(labels[:, np.newaxis], repeated),
        "img": np.tile(names[:, np.newaxis], repeated),
        "text": np.tile(np.array([name.rsplit("_", 1)[0] for name in files])[:, np.newaxis], repeated),
        "session": session.astype(np.float64),
        "ch_names": USUAL_CHANNELS,
        "times": TIMES,
        **changes,
    }
    path = root / f"sub-{subject:02d}" / f"{half}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, pickle_protocol=5)
    return path


def write_neurobridge(root: Path, subject: int, half: str, eeg: np.ndarray, *, pickled: bool = False) -> Path:
    """train.npy and test.npy [concepts, images, repetitions, C, T] with info.json; earlier, a pickled dictionary."""
    path = root / f"sub-{subject:02d}" / f"{half}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    of_concept = 2 if half == "train" else 1
    shaped = eeg.reshape(-1, of_concept, *eeg.shape[1:]).astype(np.float32)
    if pickled:
        with path.open("wb") as file:
            pickle.dump({"data": shaped, "ch_names": USUAL_CHANNELS, "times": TIMES}, file, protocol=4)
    else:
        np.save(path, shaped)
        (root / "info.json").write_text(
            json.dumps({"ch_names": USUAL_CHANNELS, "times": TIMES.tolist(), "sfreq": 250.0, "normalization": "mvnn"})
        )
    return path
