"""Configurations that no model has are refused by file and key, before a library acts on them."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.model_checks import check_configuration, check_model_folder

WRONG: dict[str, Any] = {
    "num_train_timesteps": 10**11,
    "beta_start": math.nan,
    "beta_end": 0,
    "scaling_factor": 0,
    "hidden_size": 0,
    "num_hidden_layers": 10**7,
    "layers_per_block": 2000,
    "vocab_size": 10**12,
    "trained_betas": [0.1, math.inf],
    "quantization_config": {"bits": 4},
    "shortest_edge": 60_000,
    "crop_size": 60_000,
    "image_size": 10_000,
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_named_at_any_depth(key: str) -> None:
    for content in ({key: WRONG[key]}, {"text_config": {"deeper": [{key: WRONG[key]}]}}):
        with pytest.raises(UserError, match=rf"config\.json: {key} is .*, but"):
            check_configuration(content, where=Path("config.json"))


def test_what_published_models_say_is_accepted() -> None:
    content = {
        "lambda_min_clipped": -math.inf,
        "num_train_timesteps": 1000,
        "scaling_factor": 0.18215,
        "beta_start": 0.00085,
        "trained_betas": None,
        "quantization_config": None,
        "num_register_tokens": 0,
        "pad_token_id": -1,
        "rope_theta": 1e6,
    }
    check_configuration(content, where=Path("config.json"))


def test_a_folder_holds_files_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    (tmp_path / "config.json").write_text("{}")
    check_model_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[" * 5000)
    with pytest.raises(UserError, match=r"tokenizer_config\.json cannot be read: it is nested"):
        check_model_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read: it is a FIFO"):
        check_model_folder(tmp_path)


@pytest.mark.parametrize("part", [{}, {"text_config": 1}])
def test_a_table_of_embeddings_that_would_fill_the_memory_is_refused(part: dict[str, Any]) -> None:
    """Each number alone is possible; a large model's multilingual vocabulary is accepted."""
    for vocab_size, hidden_size in ((4_000_000, 768), (1_000_000, 4096)):
        odd: dict[str, Any] = {"vocab_size": vocab_size, "hidden_size": hidden_size}
        with pytest.raises(UserError, match=f"vocab_size is {vocab_size} and hidden_size {hidden_size}, but a table"):
            check_configuration({**part, "text_config": odd} if part else odd, where=Path("config.json"))
    check_configuration({"text_config": {"vocab_size": 256_000, "hidden_size": 1152}}, where=Path("config.json"))
