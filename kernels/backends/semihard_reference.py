"""Semi-hard mining and its loss as plain float64 formulas of O(N³) work: the reference of tests and benchmarks."""

import torch
from torch import Tensor


def lattice_batch(num_rows: int, num_classes: int, *, num_features: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(rows [N, D], labels [N]) with entries ±1/4: distances are exact in every precision and many are equal, so that
    mined indices can be compared one by one, ties included. Classes are of uneven size.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 2, (num_rows, num_features), generator=generator).float() / 2 - 0.25
    labels = torch.randint(0, num_classes, (num_rows,), generator=generator)
    return rows, labels


def reference_distances(rows: Tensor, candidates: Tensor) -> Tensor:
    """Squared Euclidean distances by differences, float64 [M, N]."""
    return (rows.double()[:, None] - candidates.double()[None]).square().sum(-1)


def reference_mine(
    rows: Tensor,
    labels: Tensor,
    candidates: Tensor | None = None,
    candidate_labels: Tensor | None = None,
    anchor_offset: int | None = None,
) -> list[tuple[int, int, int, bool]]:
    """[(anchor, positive, negative, is_fallback)], straight from the definition in `semihard.py`, ordered by (anchor,
    positive)."""
    if candidates is None or candidate_labels is None:
        candidates, candidate_labels, anchor_offset = rows, labels, 0
    distance = reference_distances(rows, candidates).tolist()
    class_of = candidate_labels.tolist()
    in_class_order = sorted(range(len(class_of)), key=lambda column: (class_of[column], column))
    triplets = []
    for anchor, label in enumerate(labels.tolist()):
        own = None if anchor_offset is None else anchor + anchor_offset
        negatives = [column for column in in_class_order if class_of[column] != label]
        if not negatives:
            continue
        farthest = max(negatives, key=lambda column: distance[anchor][column])  # max and min keep the first of equals
        for positive in range(len(class_of)):
            if class_of[positive] != label or positive == own:
                continue
            beyond = [column for column in negatives if distance[anchor][column] > distance[anchor][positive]]
            nearest = min(beyond, key=lambda column: distance[anchor][column]) if beyond else farthest
            triplets.append((anchor, positive, nearest, not beyond))
    return triplets


def reference_loss(
    rows: Tensor,
    labels: Tensor,
    *,
    margin: float,
    distance: str = "sqeuclidean",
    reduction: str = "pairs",
    candidates: Tensor | None = None,
    candidate_labels: Tensor | None = None,
    anchor_offset: int | None = None,
) -> Tensor:
    """The loss in float64 on the triplets of `reference_mine`, differentiable by autograd."""
    rows = rows.double()
    columns = rows if candidates is None else candidates.double()
    if distance == "cosine":
        rows, columns = torch.nn.functional.normalize(rows, dim=1), torch.nn.functional.normalize(columns, dim=1)
    mined = reference_mine(
        rows.detach(), labels, None if candidates is None else columns.detach(), candidate_labels, anchor_offset
    )
    if not mined:
        return 0 * (rows.sum() + columns.sum())
    anchor, positive, negative = torch.tensor([triplet[:3] for triplet in mined]).T
    near, far = ((rows[anchor] - columns[chosen]).square().sum(1) for chosen in (positive, negative))
    if distance == "euclidean":
        near, far = near.sqrt(), far.sqrt()
    elif distance == "cosine":
        near, far = near / 2, far / 2
    hinge = (near - far + margin).clamp_min(0)
    return hinge.sum() / (len(mined) if reduction == "pairs" else max(1, int((hinge > 0).sum())))


def tensorflow_addons_loss(rows: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """TensorFlow Addons' `triplet_semihard_loss` ("squared-L2"), line by line, in the rows' precision, on [N², N]."""
    products = rows @ rows.T
    norms = products.diagonal()
    distance = (norms[:, None] - 2 * products + norms[None]).clamp_min(0)
    distance = distance * (1 - torch.eye(len(labels), dtype=rows.dtype, device=rows.device))
    adjacency = labels[:, None] == labels[None]
    num_rows = len(labels)
    tiled = distance.repeat(num_rows, 1)
    mask = (~adjacency).repeat(num_rows, 1) & (tiled > distance.T.reshape(-1, 1))
    any_beyond = (mask.to(rows.dtype).sum(1) > 0).reshape(num_rows, num_rows).T
    largest, smallest = tiled.amax(1, keepdim=True), distance.amin(1, keepdim=True)
    outside = (((tiled - largest) * mask).amin(1, keepdim=True) + largest).reshape(num_rows, num_rows).T
    inside = ((distance - smallest) * ~adjacency).amax(1, keepdim=True) + smallest
    hinge = margin + distance - torch.where(any_beyond, outside, inside)
    pairs = adjacency.to(rows.dtype) - torch.eye(num_rows, dtype=rows.dtype, device=rows.device)
    return (hinge * pairs).clamp_min(0).sum() / pairs.sum()


def interval_violations(
    triplets: tuple[Tensor, Tensor, Tensor], is_fallback: Tensor, rows: Tensor, labels: Tensor, *, tolerance: float
) -> int:
    """Triplets of a self-mined batch that break the definition by more than `tolerance` of the largest squared
    distance.

    For d_p, d_n the float64 distances: n is of another class; not a fallback: d_n > d_p − ε and no negative lies in
    (d_p + ε, d_n − ε); a fallback: no negative beyond d_p + ε and none beyond d_n + ε.
    """
    anchor, positive, negative = triplets
    distance = reference_distances(rows, rows)
    slack = tolerance * float(distance.max())
    near, far = distance[anchor, positive, None], distance[anchor, negative, None]
    others = distance[anchor].masked_fill(labels[anchor, None] == labels[None], -torch.inf)
    between = ((others > near + slack) & (others < far - slack)).any(1)
    wrong = (far[:, 0] <= near[:, 0] - slack) | between
    wrong_fallback = (others > near + slack).any(1) | (others > far + slack).any(1)
    same_class = labels[anchor] == labels[negative]
    return int((same_class | torch.where(is_fallback, wrong_fallback, wrong)).sum())
