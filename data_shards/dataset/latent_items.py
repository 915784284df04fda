"""Which latents a store of some kind holds for the stimuli of a data set, and under which keys."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.latent_kinds import LatentKind, latent_kind


class StimulusTable(Protocol):
    """What the cache needs to know of a data set's stimuli; a `StimulusStore` is one."""

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def captions(self) -> Sequence[str]: ...
    @property
    def detailed_captions(self) -> Sequence[str | None]: ...
    @property
    def crc32(self) -> npt.NDArray[np.uint32]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentItems:
    """The content of a store: latents by key, and which of them belongs to each stimulus."""

    keys: Sequence[str]
    """Of the latents, unique, usable in tar names."""
    texts: Sequence[str] | None
    """Of the latents, where they are captions that the data set has."""
    stimulus_keys: Sequence[str]
    latent_of: npt.NDArray[np.int64]
    """[number of stimuli]: row of the stimulus's latent in `keys`."""
    digest: str
    """SHA-256 of what is encoded."""

    @classmethod
    def of(cls, stimuli: StimulusTable, kind: str, declared: LatentKind | None = None) -> "LatentItems":
        """The items of a kind: one per image, or one per distinct caption in the order of first appearance.

        `declared`: what the kind is, where its name alone does not say it (image towers that the user named).

        Raises UserError when a stimulus lacks the caption that the kind encodes.
        """
        source = (declared or latent_kind(kind)).source
        if source in ("image", "BLIP caption"):
            content: list[Any] = [list(stimuli.keys), [int(crc) for crc in stimuli.crc32]]
            rows, texts = {key: row for row, key in enumerate(stimuli.keys)}, None
            latent_of = np.arange(len(rows))
            keys = list(rows)
        else:
            captions = stimuli.captions if source == "class caption" else stimuli.detailed_captions
            missing = [key for key, caption in zip(stimuli.keys, captions, strict=True) if not caption]
            if missing:
                raise UserError(
                    f"{len(missing)} stimuli have no {source} ({missing[0]} …), so {kind} cannot be cached."
                )
            content = [list(stimuli.keys), list(captions)]
            rows = {}
            latent_of = np.array([rows.setdefault(str(caption), len(rows)) for caption in captions], dtype=np.int64)
            texts = list(rows)
            keys = [f"caption-{hashlib.sha256(text.encode()).hexdigest()[:24]}" for text in rows]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return cls(keys=keys, texts=texts, stimulus_keys=stimuli.keys, latent_of=latent_of, digest=digest)
