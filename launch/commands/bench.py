"""`neuroimagen bench`: the table of side-by-side measurements. Each target is a module of neuroimagen.benchmarks."""

import argparse
import importlib
import importlib.util

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.lazy_parser import add_subcommands, fill_from

PACKAGE = "neuroimagen.benchmarks"
TARGETS: dict[str, str] = {
    "mining": "semi-hard mining and its loss beside public implementations",
    "infonce": "InfoNCE beside the loss on the matrix of all pairs: time, peak memory",
    "tune": "searches beside exhaustive grids, concurrent trials beside consecutive ones",
    "evaluation": "evaluation of 2,000 reconstructions: the share of the feature networks",
    "verdicts": "verdicts on simulated studies that contain signal, drift, or both",
    "stream": "samples per second of the reader beside other loaders",
    "million": "a large data set: memory over an epoch, first batch, resume at 90 %%, planning, the index",
    "recordings": "memory and time of cutting EDF recordings into a data set, filtered or not",
    "trials": "a table of a million trials: reading it and joining it to recordings",
    "train": "a training step beside a bare PyTorch loop, cached latents, waiting for data, two ranks beside one",
    "pretraining": "few labels: a classifier that starts from masked pre-training beside one from scratch",
    "small-eeg": "some hundred segments: the suggested recipe beside ridge, LDA, Riemannian tangent space and EEGNet",
    "finetuning": "diffusion fine-tuning on EEG beside the frozen model: identification, accuracy, PixCorr, SSIM",
    "real-size": "training steps at real size on a GPU: share of peak FLOP/s, data, memory, diffusers' own loop",
    "cache": "images per second of latent caching beside the plain loop of vae.encode calls",
    "reconstruct": "images per second of reconstruction beside diffusers' pipeline, one at a time and in batches",
}
"""Target → one line of help. neuroimagen.benchmarks.<target>, - as _, has HELP, EPILOG, add_arguments(parser),
run(args)."""

HELP = "Measure parts of neuroimagen beside other implementations, in one run on this machine."
EPILOG = """examples:
  neuroimagen bench mining
  neuroimagen bench mining --sizes 2048 --repeats 9 --json mining.json --plot mining.png

`neuroimagen bench TARGET --help` shows a target's options. The benchmarks come with the repository, not with the wheel.
Libraries to compare with are measured where they are installed: pip install -e ".[bench]".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subcommands(parser, TARGETS, dest="target", metavar="TARGET", fill=_fill)


def run(args: argparse.Namespace) -> int | None:
    code: int | None = importlib.import_module(_module_name(args.target)).run(args)
    return code


def _module_name(target: str) -> str:
    return f"{PACKAGE}.{target.replace('-', '_')}"


def _fill(target: str, parser: argparse.ArgumentParser) -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(
            "the benchmarks come with the repository, not with the wheel: clone it, run `make setup` in it, "
            f"and there .venv/bin/neuroimagen bench {target}."
        )
    fill_from(_module_name(target), parser)
