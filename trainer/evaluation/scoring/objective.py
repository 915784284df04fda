"""The weighted mean of metrics that a choice or a search on validation maximises."""

from collections.abc import Iterable, Mapping

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.trainer.evaluation.metrics.registry import searchable_metrics


def unknown_metrics(names: Iterable[str]) -> str | None:
    """The message about a name that no metric to maximise has; None if all have one."""
    searchable = searchable_metrics()
    for name in names:
        if name not in searchable:
            return f"there is no metric {name!r} to search for; choose among {', '.join(searchable)}"
    return None


def combined(figures: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Weighted mean of the figures named in `weights`."""
    return float(np.average([figures[name] for name in weights], weights=list(weights.values())))


def combined_by_segment(values: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """Weighted mean of the metrics of every segment, [N]; its mean is `combined` of the metrics' means."""
    parts = np.stack([values[name] for name in weights])
    return np.average(parts, weights=list(weights.values()), axis=0)
