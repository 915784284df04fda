"""Subjects as sources name them, and the numbers that the index holds.

Labels may be text ("A1", "sub-pilot"), as in BIDS. Every source maps them here and records the table in dataset.json
under provenance, key LABELS_KEY, as {label: number}.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.natural_order import natural_key

LABELS_KEY = "subject_labels"
MAX_SUBJECT = 2**31 - 1


def number_subjects(labels: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """The number of each label as int64, and the table label → number, sorted by number.

    Spaces around a label and the prefix "sub-" do not count. A label that is a whole number from 0 to 2³¹ − 1 keeps it
    ("07" and "7.0" are 7); the others get the smallest numbers from 1 on that no label has, in natural order.

    Raises UserError for an empty label, a negative number, and for two labels that differ and would get one number
    ("1" and "01"): they may be two people.
    """
    own: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        text = label.strip().removeprefix("sub-")
        if not text:
            raise UserError(f"subject {label!r} is empty. Give every row a subject.")
        own[label] = text
    table: dict[str, int] = {}
    owner: dict[int, str] = {}
    for text in dict.fromkeys(own.values()):
        if re.fullmatch(r"-\d+(\.0*)?", text):
            raise UserError(f"subject {text!r} is negative. Numbers of subjects are 0 or more.")
        if (match := re.fullmatch(r"(\d+)(\.0*)?", text, re.ASCII)) and (number := int(match[1])) <= MAX_SUBJECT:
            if number in owner:
                raise UserError(
                    f"subjects {owner[number]!r} and {text!r} would both get number {number}. Write them alike if they "
                    "are one person, differently if they are two."
                )
            table[text], owner[number] = number, text
    free = (number for number in itertools.count(1) if number not in owner)
    for text in sorted((text for text in own.values() if text not in table), key=natural_key):
        if text not in table:
            table[text] = next(free)
    numbers = np.array([table[own[label]] for label in labels], dtype=np.int64)
    return numbers, dict(sorted(table.items(), key=lambda item: item[1]))


def mapping_notes(table: dict[str, int]) -> list[str]:
    """A sentence that says the numbers of subjects whose labels are no numbers, if there are any."""
    if not (named := {label: number for label, number in table.items() if not re.fullmatch(r"[\d.]+", label)}):
        return []
    shown = ", ".join(f"{label} is {number}" for label, number in list(named.items())[:20])
    more = " …" if len(named) > 20 else ""
    return [f"subjects are numbered: {shown}{more}; dataset.json has the table (provenance, {LABELS_KEY})"]
