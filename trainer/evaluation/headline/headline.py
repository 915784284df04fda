"""The headline of an evaluation: the condition that the verdict is about, and how it became that."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.conditions import condition_of
from neuroimagen.trainer.evaluation.statements import Statement
from neuroimagen.trainer.reconstruction.conditions import headline_conditions
from neuroimagen.trainer.reconstruction.headline import Choice, read_choice
from neuroimagen.trainer.reconstruction.manifest import Reconstructions, changed_settings

_MAY_DIFFER = ("condition", "split", "segments", "samples")
"""Settings in which the validation images that the choice was made by differ from those of the test split."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """Which condition the verdict is about."""

    condition: str = "full"
    choice: Choice | None = None
    """How it was chosen on validation; None: nothing was chosen."""
    made_of: str = ""
    """What its images are made from, in words."""
    surrogate_of: str = "full"
    """The condition that the images of a drift surrogate's run are compared with."""
    changed: tuple[str, ...] = ()
    """The settings that are not the same in the choice and in the images of the test split."""

    @property
    def statement(self) -> Statement | None:
        """Which condition is the headline and why; None where it is `full` because nothing was chosen."""
        title = condition_of(self.condition).title
        made_of = f" It is made of: {self.made_of}." if self.made_of else ""
        if self.choice is not None:
            return Statement(heading=f"The headline: {title}", text=self.choice.sentence + made_of, tone="plain")
        if self.condition == "full":
            return None
        text = f"No condition was chosen on validation, and `full` was not drawn, so {self.condition} is the headline."
        return Statement(heading=f"The headline: {title}", text=text + made_of, tone="plain")

    @property
    def stale_statement(self) -> Statement | None:
        """A warning where the test images were drawn with other settings than the choice was made with."""
        if not self.changed:
            return None
        text = (
            f"Between the choice on validation and the test images {'; '.join(self.changed)}. `neuroimagen reconstruct "
            "--overwrite` chooses and draws again."
        )
        return Statement(heading="The headline was chosen with other settings", text=text, tone="warning")

    def tree(self) -> dict[str, Any]:
        """What the report needs, as JSON values."""
        return {
            "condition": self.condition,
            "chosen": None if self.choice is None else self.choice.sentence,
            "made_of": self.made_of,
        }


def headline_of(
    run: Path, conditions: Mapping[str, Reconstructions], *, surrogate: Reconstructions | None = None
) -> Headline:
    """The headline among the conditions that were drawn: the chosen one; without a choice `full`, or the first there is
    that sees the EEG.

    `surrogate`: the images of the drift surrogate's run. Raises UserError if the chosen condition was not drawn, or not
    for every segment.
    """
    choice = read_choice(run) if conditions else None
    surrogate_of = "full"
    if surrogate is not None and "neuroimagen" in conditions and "image" not in surrogate.settings:
        surrogate_of = "neuroimagen"
    if choice is None:
        names = [name for name in ("full", *headline_conditions()) if name in conditions]
        name = names[0] if names else "full"
        made_of = conditions[name].settings.get("made_of", "") if name in conditions else ""
        return Headline(condition=name, made_of=made_of, surrogate_of=surrogate_of)
    found = conditions.get(choice.condition)
    if found is None or "segments" in found.settings:
        how = "not drawn" if found is None else f"drawn for {found.settings['segments']} segments only"
        raise UserError(
            f"{run}: the headline, {choice.condition}, was chosen on validation, but it was {how}. Run `neuroimagen "
            f"reconstruct --run {run}{'' if found is None else ' --overwrite'}`."
        )
    before, now = (
        {key: value for key, value in settings.items() if key not in _MAY_DIFFER}
        for settings in (choice.settings[choice.condition], found.settings)
    )
    return Headline(
        condition=choice.condition,
        choice=choice,
        made_of=found.settings.get("made_of", ""),
        surrogate_of=surrogate_of,
        changed=tuple(changed_settings(before, now)),
    )
