"""Which stages of a run have to be trained to train one of them again."""

from collections.abc import Sequence

from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.stages.registry import STAGES, stage_order
from neuroimagen.trainer.training.build import initial_source


def stages_behind(recipe: Recipe, stages: Sequence[str]) -> list[str]:
    """`stages` and those of the same run that they start from or read, in the order in which they need each other."""
    needed, open_ends = set(stages), list(stages)
    while open_ends:
        stage = open_ends.pop()
        for source in (initial_source(recipe, stage), *STAGES[stage].reads(recipe.stages[stage])):
            if source is not None and "/" not in source and source not in needed:
                needed.add(source)
                open_ends.append(source)
    return [stage for stage in stage_order() if stage in needed]
