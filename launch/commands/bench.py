"""`neuroimagen bench`: side-by-side measurements; a table of targets, each a module of neuroimagen.benchmarks."""

import argparse
import importlib
from collections.abc import Callable
from typing import Any

TARGETS: dict[str, str] = {
    "mining": "semi-hard mining and its loss beside public implementations",
    "tune": "searches beside exhaustive grids, concurrent trials beside sequential ones",
    "evaluation": "evaluation of 2,000 reconstructions: the share of the feature networks",
    "verdicts": "verdicts on simulated studies with known truth: signal, drift, both",
    "stream": "segments per second of the reader beside other loaders",
    "million": "a large data set: memory over an epoch, first batch, resume at 90 %%, planning, the index",
    "train": "a training step beside a bare PyTorch loop, cached latents, waiting for data, two ranks beside one",
    "pretraining": "few labels: a classifier that starts from masked pre-training beside one from scratch",
    "finetuning": "diffusion fine-tuning on EEG beside the frozen model: identification, accuracy, PixCorr, SSIM",
    "real-size": "training steps at real size on a GPU: share of its peak, data, memory, diffusers' loop",
    "cache": "images per second of latent caching beside a plain loop of vae.encode calls",
    "reconstruct": "images per second of reconstruction beside diffusers' pipeline, one at a time and batched",
}
"""Target → one line of help. neuroimagen.benchmarks.<target>, - as _, has HELP, EPILOG, add_arguments(parser),
run(args)."""

HELP = "Measure parts of neuroimagen beside others, in one run on this machine."
EPILOG = """examples:
  neuroimagen bench mining
  neuroimagen bench mining --sizes 2048 --repeats 9 --json mining.json --plot mining.png

`neuroimagen bench TARGET --help` shows a target's options. The libraries that we are measured beside take part where
they are installed: pip install "neuroimagen[bench]".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    targets = parser.add_subparsers(dest="target", metavar="TARGET", required=True, parser_class=_TargetParser)
    for name, help_line in TARGETS.items():
        targets.add_parser(name, help=help_line, target=name)


def run(args: argparse.Namespace) -> int | None:
    code: int | None = _module(args.target).run(args)
    return code


def _module(target: str) -> Any:
    return importlib.import_module(f"neuroimagen.benchmarks.{target.replace('-', '_')}")


class _TargetParser(argparse.ArgumentParser):
    """Takes its description and arguments from the target's module when it is used: the modules import torch."""

    def __init__(self, *, target: str, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._fill: Callable[[], None] | None = lambda: self._take(_module(target))

    def _take(self, module: Any) -> None:
        self.description, self.epilog = module.HELP, module.EPILOG
        module.add_arguments(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill()
        return super().parse_known_args(args, namespace)
