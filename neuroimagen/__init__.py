# pyright: basic
"""Images from EEG: data, training, reconstruction and evaluation.

The folders beside this file are links to those at the top of the repository; docs/explanation/architecture.md says what
stands where. What a program outside needs is named here, and imported when it is first used: `import neuroimagen` is
quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuroimagen.data_shards.common.errors import UserError
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.loading.reader import Batch, Reader
    from neuroimagen.data_shards.sources.base import Source
    from neuroimagen.data_shards.sources.ingest import ingest
    from neuroimagen.data_shards.writing.writer import DatasetWriter
    from neuroimagen.kernels.semihard import SemiHardTripletLoss, mine_semihard
    from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
    from neuroimagen.trainer.prediction.pipeline import Pipeline
    from neuroimagen.trainer.prediction.result import PipelineResult
    from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Dataset",
    "DatasetWriter",
    "EEGEncoder",
    "Pipeline",
    "PipelineResult",
    "Reader",
    "Recipe",
    "SemiHardTripletLoss",
    "Source",
    "UserError",
    "__version__",
    "ingest",
    "load_recipe",
    "mine_semihard",
]

_MODULES = {
    "Batch": "data_shards.loading.reader",
    "Dataset": "data_shards.dataset.dataset",
    "DatasetWriter": "data_shards.writing.writer",
    "EEGEncoder": "trainer.networks.encoders.eeg_encoder",
    "Pipeline": "trainer.prediction.pipeline",
    "PipelineResult": "trainer.prediction.result",
    "Reader": "data_shards.loading.reader",
    "Recipe": "trainer.recipe.recipe",
    "SemiHardTripletLoss": "kernels.semihard",
    "Source": "data_shards.sources.base",
    "UserError": "data_shards.common.errors",
    "ingest": "data_shards.sources.ingest",
    "load_recipe": "trainer.recipe.recipe",
    "mine_semihard": "kernels.semihard",
}
"""Public name → the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'neuroimagen' has no attribute {name!r}")
    return getattr(importlib.import_module(f"neuroimagen.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
