"""Which losses count as bad, and what is said and kept of them."""

import json
import math
from pathlib import Path

import pytest

from neuroimagen.trainer.runs.run_folder import StageFolder
from neuroimagen.trainer.training.loss_watch import MEMORY, BadLossError, LossWatch, report_bad_batch
from neuroimagen.trainer.training.process_group import ProcessGroup


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_bad_at_once(loss: float) -> None:
    watch = LossWatch(None, {})
    assert watch.verdict("encoder", loss) == "is not finite"
    assert watch.recent.get("encoder", []) == []


def test_a_loss_diverges_beside_the_median_of_the_last_fifty() -> None:
    watch = LossWatch(100.0, {})
    for number in range(MEMORY - 1):
        assert watch.verdict("encoder", 1.0 + number % 3) is None
    assert watch.verdict("encoder", -1e6) is None  # there are not yet fifty to compare with
    assert watch.verdict("encoder", 199.0) is None  # outliers leave the median where it is
    verdict = watch.verdict("encoder", 201.0)
    assert verdict == "is 201, more than 100 times its median of 2"
    assert len(watch.recent["encoder"]) == MEMORY
    assert watch.verdict("other", 201.0) is None  # of another network
    assert LossWatch(None, watch.recent).verdict("encoder", 1e9) is None


def test_it_goes_on_from_what_a_checkpoint_kept() -> None:
    first, recent = LossWatch(10.0, {}), {"encoder": [1.0] * MEMORY}
    second = LossWatch(10.0, recent)
    second.verdict("encoder", 2.0)
    assert recent == {"encoder": [1.0] * MEMORY}
    assert second.verdict("encoder", 11.0) is not None
    assert first.verdict("encoder", 11.0) is None


def test_a_bad_batch_is_reported_with_its_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = StageFolder(tmp_path, "contrastive")
    folder.path.mkdir()
    error = BadLossError("contrastive: encoder", 7, "is not finite", ["000000003", "000000009"])
    report_bad_batch(error, folder, ProcessGroup())
    report_bad_batch(error, folder, ProcessGroup())
    lines = [json.loads(line) for line in folder.bad_batches.read_text().splitlines()]
    assert (
        lines
        == [{"step": 7, "problem": "contrastive: encoder: the loss is not finite at step 7", "segments": error.keys}]
        * 2
    )
    assert "bad-batches.jsonl" in capsys.readouterr().err
    assert "segments 000000003, 000000009" in error.advice(1)
    assert "bad batch 3" in error.advice(3)
