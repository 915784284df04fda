"""What figures were computed from, and the refusal of checkpoints that the test split chose."""

import hashlib
import json
from pathlib import Path

import pytest
from simulated_run import Finished

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.provenance import provenance, require_selection_on_validation


def test_files_are_named_by_their_hash_and_splits_are_counted(finished: Finished) -> None:
    dataset = Dataset.open(finished.data)
    found = provenance(finished.run, dataset, {"clip": "a folder"})
    assert found["data"]["digest"] == dataset.digest
    assert found["data"]["splits"]["test"] == {"segments": 24, "stimuli": 12, "subjects": 2}
    assert found["scoring_networks"] == {"clip": "a folder"}
    assert found["reconstructions"]["full"]["settings"] == {"strength": 0.8, "guidance": 4.0}
    for name in ("config.yaml", "contrastive/export/model.safetensors"):
        assert found["run_files"][name] == hashlib.sha256((finished.run / name).read_bytes()).hexdigest()
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([{"selection_split": "val"}], None),
        ([{"selection_split": "val"}, {"selection_split": "test"}], "the 'test' split chose the saliency checkpoint"),
        ([{}], "an unknown split chose the saliency checkpoint"),
        ([], "an unknown split chose the saliency checkpoint"),
        ("{", "it is unknown which split chose the checkpoint of saliency"),
        (None, "has no environment.json"),
    ],
)
def test_only_the_validation_split_may_choose(tmp_path: Path, starts: object, message: str | None) -> None:
    (tmp_path / "saliency" / "export").mkdir(parents=True)
    if starts is not None:
        text = starts if isinstance(starts, str) else json.dumps(starts)
        (tmp_path / "saliency" / "environment.json").write_text(text)
    if message is None:
        require_selection_on_validation(tmp_path)
        return
    with pytest.raises(UserError, match=message):
        require_selection_on_validation(tmp_path)
