"""--repetitions: whether the presentations of an image to a subject are kept or averaged, by split."""

from collections.abc import Mapping, Sequence

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.format.schema import SPLITS

KEEP, AVERAGE = "keep", "average"


def parse_repetitions(words: Sequence[str]) -> Mapping[str, str]:
    """Split → keep or average, from one word for all or from train=keep test=average; keep where none is given."""
    if len(words) == 1 and "=" not in words[0]:
        words = [f"{split}={words[0]}" for split in SPLITS]
    chosen: dict[str, str] = {}
    for word in words:
        split, _, treatment = word.partition("=")
        if split not in SPLITS or treatment not in (KEEP, AVERAGE):
            raise UsageError(
                f"--repetitions {word!r} is neither keep nor average, nor of the form train=keep test=average "
                f"(splits: {', '.join(SPLITS)})."
            )
        if chosen.setdefault(split, treatment) != treatment:
            raise UsageError(f"--repetitions gives {split} twice.")
    return {split: chosen.get(split, KEEP) for split in SPLITS}


def in_words(repetitions: Mapping[str, str]) -> str | dict[str, str]:
    """For dataset.json: one word where all splits have the same, as earlier versions wrote."""
    return next(iter(repetitions.values())) if len(set(repetitions.values())) == 1 else dict(repetitions)
