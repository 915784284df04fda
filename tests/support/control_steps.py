"""A run whose stages are finished as far as controls look at them, and what stands in for running commands."""

import json
from collections.abc import Sequence
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError


def finish_stage(run: Path, stage: str, *, num_ranks: int = 2) -> None:
    """What a finished stage leaves, as far as the controls look at it."""
    (run / stage / "export").mkdir(parents=True, exist_ok=True)
    starts = [{"num_ranks": 1, "selection_split": "val"}, {"num_ranks": num_ranks, "selection_split": "val"}]
    (run / stage / "environment.json").write_text(json.dumps(starts))


class Commands:
    """Notes every command instead of running it; those that contain a word of `failing` fail."""

    def __init__(self, failing: Sequence[str] = ()) -> None:
        self.started: list[list[str]] = []
        self._failing = set(failing)

    def __call__(self, commands: Sequence[tuple[str, ...]], *, what: str) -> None:
        for words in commands:
            self.started.append(list(words))
            if self._failing & set(words):
                raise UserError(f"{what}: {self.names[-1]} failed")

    @property
    def names(self) -> list[str]:
        """Each command's first two words that are no options."""
        return [" ".join(word for word in words[:2] if word[0] != "-") for words in self.started]


def value_after(words: Sequence[str], option: str) -> str:
    return words[list(words).index(option) + 1]
