"""Chooses a few of many segments, spread evenly over stimuli and subjects."""

from collections import Counter

import numpy as np

from neuroimagen.data_shards.common.arrays import Integers


def even_subset(
    rows: Integers, *, stimuli: Integers, subjects: Integers, labels: Integers, num: int | None
) -> Integers:
    """`num` of `rows` in their order; all of them if `num` is None or not below their number.

    `stimuli`, `subjects`, `labels`: of each row, [N]. Every stimulus is taken equally often, up to one, where it has
    that many segments; so is every subject, as far as the segments allow. Where not every stimulus can be taken, those
    taken are evenly spaced in the order of classes, so that every class has its share. No random number is involved.
    """
    if num is None or num >= len(rows):
        return rows
    of_stimulus: dict[tuple[int, int], list[int]] = {}
    for place, (label, stimulus) in enumerate(zip(labels.tolist(), stimuli.tolist(), strict=True)):
        of_stimulus.setdefault((label, stimulus), []).append(place)
    taken: list[int] = []
    of_subject: Counter[int] = Counter()
    while len(taken) < num:
        waiting = [places for _, places in sorted(of_stimulus.items()) if places]
        wanted = min(num - len(taken), len(waiting))
        for number in range(wanted):
            # One of each stretch of stimuli: the first that the subject with the fewest segments so far has seen.
            stretch = waiting[number * len(waiting) // wanted : (number + 1) * len(waiting) // wanted]
            _, turn, chosen = min(
                (of_subject[int(subjects[place])], turn, place)
                for turn, places in enumerate(stretch)
                for place in places
            )
            stretch[turn].remove(chosen)
            of_subject[int(subjects[chosen])] += 1
            taken.append(chosen)
    return rows[np.sort(np.array(taken))]
