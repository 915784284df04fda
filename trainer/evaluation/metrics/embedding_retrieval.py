"""Retrieval of the stimulus by an embedding of the EEG: how it ranks among all test stimuli.

Legend: n queries (segments, or averages of them), S test stimuli.
"""

from collections.abc import Mapping

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.trainer.evaluation.conditions import Group
from neuroimagen.trainer.evaluation.metrics.identification import retrieval_accuracy, two_way_identification
from neuroimagen.trainer.evaluation.metrics.metric import Metric
from neuroimagen.trainer.evaluation.metrics.n_way_accuracy import n_way_accuracy
from neuroimagen.trainer.evaluation.scoring.scoring import CANDIDATES

_OTHERS = "by the cosine similarity of the EEG's embedding with the stimuli's ({targets}); ties count against"
_GROUPS: frozenset[Group] = frozenset({"eeg", "transductive", "reference"})

EMBEDDING_TOP1 = Metric(
    title="stimulus top-1",
    definition=f"the true stimulus ranks first among all {{n_stimuli}} test stimuli {_OTHERS}",
    scale="share",
    groups=_GROUPS,
)
EMBEDDING_TOP5 = Metric(
    title="stimulus top-5",
    definition=f"the true stimulus ranks among the first five of all {{n_stimuli}} test stimuli {_OTHERS}",
    scale="share",
    groups=_GROUPS,
)
EMBEDDING_MEAN_RANK = Metric(
    title="mean rank",
    definition=f"mean rank of the true stimulus, 1 to {{n_stimuli}}, among all test stimuli {_OTHERS}",
    bounds=(1.0, float("inf")),
    higher_is_better=False,
    groups=_GROUPS,
)
EMBEDDING_TWO_WAY = Metric(
    title="2-way stimulus",
    definition="share of the other {n_other_stimuli} test stimuli that are less similar than the true one, ties half, "
    "by the cosine similarity of the EEG's embedding with the stimuli's ({targets})",
    scale="share",
    groups=_GROUPS,
)
EMBEDDING_WITHIN_CLASS = Metric(
    title="2-way within class",
    definition="two-way identification among the test stimuli of the true class only ({class_sizes} a class), by the "
    "cosine similarity of embeddings ({targets})",
    scale="share",
    groups=_GROUPS,
)
EMBEDDING200_TOP1 = Metric(
    title="200-way top-1",
    definition=f"the true stimulus ranks first among it and {CANDIDATES - 1} other test stimuli, drawn at random "
    f"{{trials}} times, {_OTHERS}",
    scale="share",
    groups=_GROUPS,
)
EMBEDDING200_TOP5 = Metric(
    title="200-way top-5",
    definition=f"the true stimulus ranks among the first five of it and {CANDIDATES - 1} other test stimuli, drawn at "
    f"random {{trials}} times, {_OTHERS}",
    scale="share",
    groups=_GROUPS,
)


def embedding_values(
    similarity: Floats, columns: Integers, same_class: np.ndarray, *, num_trials: int, seed: int
) -> dict[str, Floats]:
    """Metric → value of each query [n], from similarities [n, S], the true stimuli [n], and same_class bool [S, S]."""
    true = similarity[np.arange(len(columns)), columns][:, None]
    values = {
        "embedding_top1": retrieval_accuracy(similarity, columns),
        "embedding_top5": retrieval_accuracy(similarity, columns, top_k=5),
        "embedding_mean_rank": (similarity >= true).sum(axis=1).astype(np.float64),
        "embedding_two_way": two_way_identification(similarity, columns),
        "embedding_within_class": two_way_identification(similarity, columns, allowed=same_class[columns]),
    }
    if similarity.shape[1] > CANDIDATES:  # else they are those above
        for top_k in (1, 5):
            values[f"embedding200_top{top_k}"] = n_way_accuracy(
                similarity, columns, n_way=CANDIDATES, top_k=top_k, num_trials=num_trials, seed=seed
            )
    return values


def embedding_chance(same_class: np.ndarray) -> Mapping[str, float]:
    """Metric → the figure of guessing among the S stimuli; same_class bool [S, S]."""
    num_stimuli = len(same_class)
    chance = {
        "embedding_top1": 1 / num_stimuli,
        "embedding_top5": min(1.0, 5 / num_stimuli),
        "embedding_mean_rank": (num_stimuli + 1) / 2,
        "embedding_two_way": 0.5,
        "embedding_within_class": 0.5,
    }
    if num_stimuli > CANDIDATES:
        chance |= {"embedding200_top1": 1 / CANDIDATES, "embedding200_top5": 5 / CANDIDATES}
    if (same_class.sum(axis=1) < 2).all():
        del chance["embedding_within_class"]
    return chance


def csls(similarity: Floats, *, neighbours: int = 10) -> Floats:
    """Cross-domain similarity local scaling, 2 s_ij − r_i − r_j (Conneau et al. 2018, eq. 3), [n, S].

    r are the mean similarities of the nearest `neighbours` on the other side. It is transductive: the similarity of one
    query depends on all the others.
    """
    of_queries = np.sort(similarity, axis=1)[:, -min(neighbours, similarity.shape[1]) :].mean(axis=1)
    of_stimuli = np.sort(similarity, axis=0)[-min(neighbours, len(similarity)) :].mean(axis=0)
    return 2 * similarity - of_queries[:, None] - of_stimuli[None]
