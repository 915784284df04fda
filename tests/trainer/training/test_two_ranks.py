"""Ranks that share a batch train as one process with all of it: every stage, every ZeRO stage."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroimagen.launch.nodes.job import rank_environment
from neuroimagen.trainer.stages.registry import STAGES

CASES = (*STAGES.names(), "adapter")
"""The stages; and diffusion with an IP-Adapter beside the U-Net."""
VARIANTS = ("zero 0", "zero 1", "zero 2", "zero 3", "zero 2 offloaded", "zero 1 accumulated")


def launch(folder: Path, model: Path, num_ranks: int, *tasks: str) -> dict[str, Any]:
    """Run two_ranks.py on ranks; returns what each task found."""
    script = Path(__file__).with_name("two_ranks.py")
    logs = folder / "logs"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"),
        *(f"--log-dir={logs}", "--redirects=3", "--", str(script), str(folder / "found.json"), str(model), *tasks),
    ]
    environment = rank_environment(os.environ, num_ranks=num_ranks, num_cores=num_ranks, interface=None)
    subprocess.run(command, env=environment, check=False, capture_output=True, timeout=1500)
    result = folder / "found.json"
    assert result.is_file(), "\n".join(log.read_text()[-3000:] for log in logs.rglob("*.log"))
    found: dict[str, Any] = json.loads(result.read_text())
    return found


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> dict[str, Any]:
    """What two ranks find of memory and of weights. One launch for all; memory first, while little is alive."""
    return launch(tmp_path_factory.mktemp("two-ranks"), tiny_diffusion_folder, 2, "memory", "weights")


@pytest.fixture
def differences(of_two_ranks: dict[str, Any]) -> dict[str, float]:
    """Distance of the weights after four steps, by stage and variant."""
    found: dict[str, float] = of_two_ranks["weights"]
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", CASES)
def test_weights_are_those_of_plain_pytorch(stage: str, variant: str, differences: dict[str, float]) -> None:
    if stage in ("contrastive", "alignment") and variant == "zero 1 accumulated":
        assert f"{stage} {variant}" not in differences
        return
    moved = differences[f"{stage} moved"]
    assert moved > 5e-3  # there was something to get wrong
    # Rounding in another order changes few weights, and by little (AdamW's step has the size of the learning rate even
    # where a gradient is almost zero); a wrong gradient of the other network changes all of them, by the size of a
    # step.
    # Spectral normalisation takes a step of its power iteration with every micro-batch, so the discriminator of an
    # accumulated step is not exactly that of a step on the whole batch.
    share = 0.1 if (stage, variant) == ("saliency", "zero 1 accumulated") else 1e-3
    assert differences[f"{stage} {variant}"] < share * moved


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_rank_two_and_four_have_the_same_losses(tmp_path: Path, tiny_diffusion_folder: Path) -> None:
    """1 × 4B, 2 × 2B and 4 × B over 20 steps, every stage at ZeRO 0 to 3."""
    curves: dict[int, dict[str, list[float]]] = {}
    for num_ranks in (1, 2, 4):
        folder = tmp_path / str(num_ranks)
        folder.mkdir()
        curves[num_ranks] = launch(folder, tiny_diffusion_folder, num_ranks, "losses")["losses"]
    assert len(curves[1]) == 4 * len(CASES)
    for name, losses in curves[1].items():
        assert len(losses) == 20
        zero_0 = curves[1][f"{name.partition(' zero')[0]} zero 0"]
        for other in (curves[2][name], curves[4][name], zero_0):
            np.testing.assert_allclose(other, losses, rtol=1e-3, atol=1e-4, err_msg=name)


def test_zero_3_holds_whole_weights_only_while_they_are_evaluated(of_two_ranks: dict[str, Any]) -> None:
    """On two ranks, with a moving average: the size of all live tensors is the one that a dry run states."""
    memory = of_two_ranks["memory"]
    whole = memory["whole"]
    assert whole == memory["said in evaluation"] > 5e6
    assert memory["between"] == pytest.approx(memory["said between"], rel=0.02)
    assert memory["during"] - memory["between"] == pytest.approx(whole, rel=0.02)
    assert memory["after"] == memory["between"]
    # Half of weights, gradients, optimiser's copy, two moments and average; without a whole copy or a whole average.
    assert memory["between"] - memory["said reduction"] < 3.1 * whole
