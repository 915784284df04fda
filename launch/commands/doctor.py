"""`neuroimagen doctor`: what this machine has, and what will work on it."""

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

HELP = "What this machine has (torch, GPUs, NCCL, Triton, DeepSpeed's ops, disk), and what will work on it."
EPILOG = """examples:
  neuroimagen doctor
  neuroimagen doctor --model models/stable-diffusion-v1-5 models/dinov2-giant
"""

_PACKAGES = (
    "torch",
    "deepspeed",
    "accelerate",
    "webdataset",
    "diffusers",
    "transformers",
    "ray",
    "triton",
    "mne",
    "numpy",
    "pyarrow",
)
_DEMO_DISK_GB = 4.0
_DEMO_MEMORY_GB = 8.0


@dataclass(frozen=True)
class Finding:
    """One line of the report: `ok` says whether it is as it must be, `remedy` what to do if not."""

    what: str
    value: str
    ok: bool = True
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="PATH",
        help="model folders ('bundled' for the model that comes with neuroimagen): say what each is and serves",
    )


def run(args: argparse.Namespace) -> int:
    findings = [finding for path in args.model for finding in _model(path)]
    findings = findings or [*_machine(), *_packages(), _compiler(), *_accelerators()]
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        mark = "ok  " if finding.ok else "MISS"
        print(f"{mark} {finding.what:<{width}}  {finding.value}" + (f"  → {finding.remedy}" if finding.remedy else ""))
    return 0 if all(finding.ok for finding in findings) else 1


def _model(path: str) -> list[Finding]:
    """What a model folder is, what it serves, and why not the rest."""
    from neuroimagen.data_shards.frozen_models.recognise import USES, recognise
    from neuroimagen.trainer.bundled_model.location import model_path

    content = recognise(model_path(path))
    serves = ", ".join(USES[use] for use in content.serves) or "nothing"
    findings = [Finding(path, f"{content.what}; serves {serves}", ok=bool(content.serves) and not content.problems)]
    if content.tower is not None:
        findings.append(Finding("", f"image tower {content.tower}: cache --towers NAME={path}"))
    for reason in dict.fromkeys(content.refuses.values()):
        uses = [f"no {USES[use]}" for use, other in content.refuses.items() if other == reason]
        findings.append(Finding("", f"{', '.join(uses)}: {reason}"))
    return findings + [Finding("", f"missing: {problem}", ok=False) for problem in content.problems]


def _machine() -> list[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free_memory, free_disk = memory.available / 1e9, disk.free / 1e9
    return [
        Finding("Python", platform.python_version(), sys.version_info >= (3, 11), ""),
        Finding("system", f"{platform.system()} {platform.machine()}, {cores} cores"),
        Finding(
            "memory",
            f"{memory.total / 1e9:.0f} GB, {free_memory:.0f} GB free",
            free_memory >= _DEMO_MEMORY_GB,
            "" if free_memory >= _DEMO_MEMORY_GB else f"the demo needs {_DEMO_MEMORY_GB:.0f} GB of free memory",
        ),
        Finding(
            "disk here",
            f"{free_disk:.0f} GB free",
            free_disk >= _DEMO_DISK_GB,
            "" if free_disk >= _DEMO_DISK_GB else f"the demo needs {_DEMO_DISK_GB:.0f} GB of free disk space",
        ),
    ]


def _packages() -> list[Finding]:
    findings = []
    for name in _PACKAGES:
        try:
            findings.append(Finding(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(
                Finding(
                    name, "not installed", ok=False, remedy=f"pip install {name}, or run make setup in the repository"
                )
            )
    return findings


def _compiler() -> Finding:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        value = "not compiled, because there is no C++ compiler: only `compile: true` on a CPU needs one"
        return Finding("DeepSpeed ops", value)
    return Finding("DeepSpeed ops", f"compiled at the first use, with {compiler}")


def _accelerators() -> list[Finding]:
    try:
        import torch
    except ImportError:
        return []  # reported among the packages

    if not torch.cuda.is_available():
        findings = [Finding("GPU", "none: training runs on the CPU with gloo, mining with the PyTorch backend")]
        bfloat16 = "fast (AMX)" if torch.cpu._is_amx_tile_supported() else "slow (no AMX)"
        findings.append(Finding("CPU bfloat16", bfloat16))
    else:
        findings = []
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            capability = f"sm_{properties.major}{properties.minor}"
            new_enough = properties.major >= 8
            findings.append(
                Finding(
                    f"GPU {i}",
                    f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {capability}",
                    remedy=""
                    if new_enough
                    else "the Triton mining kernel needs sm_80 or later; the PyTorch backend is used instead",
                )
            )
        nccl = ".".join(str(part) for part in torch.cuda.nccl.version())
        findings.append(Finding("NCCL", nccl if torch.distributed.is_nccl_available() else "missing"))
    return findings
