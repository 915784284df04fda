"""The stages of training by name, in the order in which one can start from another."""

from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from neuroimagen.data_shards.common.registry import Registry

if TYPE_CHECKING:  # the names alone must not take PyTorch
    from neuroimagen.trainer.stages.base import Stage

STAGES: "Registry[type[Stage]]" = Registry(
    "stage",
    "neuroimagen.stages",
    {
        "masked": "neuroimagen.trainer.stages.masked:MaskedStage",
        "contrastive": "neuroimagen.trainer.stages.contrastive:ContrastiveStage",
        "classifier": "neuroimagen.trainer.stages.classifier:ClassifierStage",
        "saliency": "neuroimagen.trainer.stages.saliency:SaliencyStage",
        "semantic": "neuroimagen.trainer.stages.semantic:SemanticStage",
        "semantic_detailed": "neuroimagen.trainer.stages.semantic:SemanticDetailedStage",
        "alignment": "neuroimagen.trainer.stages.alignment:AlignmentStage",
        "prior": "neuroimagen.trainer.stages.prior:PriorStage",
        "vae_latent": "neuroimagen.trainer.stages.vae_latent:VaeLatentStage",
        "diffusion": "neuroimagen.trainer.stages.diffusion:DiffusionStage",
    },
)
"""Each is a section of the recipe and a folder of the run."""


def stage_order() -> list[str]:
    """The names of all stages, each after those that it can start from."""
    names = STAGES.names()
    before = {name: [other for other in STAGES[name].after if other in STAGES] for name in names}
    sorter = TopologicalSorter(before)
    sorter.prepare()
    ordered: list[str] = []
    while sorter.is_active():
        # Of those that may come next, the first in the registry: the order does not depend on hashes.
        ready = sorted(sorter.get_ready(), key=names.index)
        ordered += ready
        sorter.done(*ready)
    return ordered
