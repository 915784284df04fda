"""What a recipe is chosen by, read from a data set and model folders."""

from pathlib import Path

import pytest
import simulated_run

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.bundled_model.location import BUNDLED
from neuroimagen.trainer.recipe.suggestion.facts import model_argument, read_facts


def test_facts_are_those_of_the_tables_and_the_model(tmp_path: Path, tiny_diffusion_folder: Path) -> None:
    simulated_run.write_dataset(tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    facts = read_facts(dataset, tiny_diffusion_folder)
    train = dataset.rows("train")
    assert (facts.n_channels, facts.n_samples, facts.sfreq) == (8, 60, dataset.metadata.sfreq)
    assert facts.num_train == len(train)
    assert facts.num_train_stimuli == len(set(dataset.index.stimulus[train].tolist()))
    assert facts.train_class_sizes == (6,) * 6
    assert facts.tests_seen_classes
    assert {"vae", "text-class"} <= set(facts.kinds)
    assert facts.sizes.keys() == {"latent_shape", "text_shape"}


def test_the_bundled_model_draws_from_an_image_embedding(tmp_path: Path) -> None:
    simulated_run.write_dataset(tmp_path / "data")
    argument, folder = model_argument(BUNDLED)
    assert argument == BUNDLED  # a recipe names it so, wherever it is installed
    facts = read_facts(Dataset.open(tmp_path / "data"), folder)
    assert facts.takes_image
    assert facts.embedding_sizes.keys() == {"image"}


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        model_argument(str(tmp_path))
