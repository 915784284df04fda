"""EEG → embeddings of the stimulus, as frozen networks make them (image towers, pooled captions).

Shapes: B segments, C channels, T samples, F features of the encoder, P length of an embedding.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.encoders.projector import projector
from neuroimagen.trainer.networks.pretrained import PretrainedModule

HeadKind = Literal["none", "linear", "residual"]
SCALE_BOUNDS = (1.0, 100.0)
"""The logit scale is kept within them: a learnt scale without a floor falls towards 0, and CLIP's ceiling is 100."""


class AlignmentModel(PretrainedModule):
    """EEG [B, C, T], and with subject layers the subjects [B] → one embedding [B, P] for each kind of target.

    An embedding is comparable by its cosine with a target minus `centre(kind)`, the mean of the training stimuli's
    targets where the model was made with `centre_targets`, else zero: embeddings of all images have most of their
    length in common, and what is common identifies none.
    """

    model_type: ClassVar[str] = "alignment-model"

    def __init__(
        self,
        *,
        encoder: dict[str, Any],
        embedding_sizes: Mapping[str, int],
        head: HeadKind,
        head_dropout: float,
        centre_targets: bool,
        logit_scale: float,
        learn_logit_scale: bool,
        kept_encoder: dict[str, Any] | None = None,
    ) -> None:
        """`embedding_sizes`: kind of target → P. `head`: what makes an embedding of the features: nothing ("none", for
        encoders whose features have length P), a linear layer, or one with a residual block and a LayerNorm (NICE,
        ATM, UBP: Linear, then x + dropout(Linear(GELU(x))), LayerNorm). `kept_encoder`: arguments of a second encoder,
        which its stage does not train; the head reads the features of both, [B, F + F'].
        """
        super().__init__()
        self.config = {
            "encoder": encoder,
            "embedding_sizes": dict(embedding_sizes),
            "head": head,
            "head_dropout": head_dropout,
            "centre_targets": centre_targets,
            "logit_scale": logit_scale,
            "learn_logit_scale": learn_logit_scale,
        }
        self.encoder = EEGEncoder(**encoder)
        self.kept_encoder: EEGEncoder | None = None
        feature_size = self.encoder.feature_size
        if kept_encoder is not None:
            self.config["kept_encoder"] = kept_encoder
            self.kept_encoder = EEGEncoder(**kept_encoder).requires_grad_(False).eval()
            feature_size += self.kept_encoder.feature_size
        self.centre_targets = centre_targets
        self.embedding_sizes = dict(embedding_sizes)
        # Names of kinds hold hyphens, which are no attribute names; numbers keep the order of the configuration.
        self.heads = nn.ModuleList(
            _head(head, feature_size, size, head_dropout, kind) for kind, size in self.embedding_sizes.items()
        )
        for place, size in enumerate(self.embedding_sizes.values()):
            self.register_buffer(f"centre_{place}", torch.zeros(size))
            self.register_buffer(f"length_{place}", torch.ones(1))
        self._has_lengths: bool | None = None  # None: not looked at since they were set
        # [1]: DeepSpeed broadcasts parameters by a view that a 0-dim tensor does not have.
        self.log_scale = nn.Parameter(torch.tensor([logit_scale]).log(), requires_grad=learn_logit_scale)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of target, in the order of the configuration."""
        return tuple(self.embedding_sizes)

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """The embeddings by kind, and the logit scale (0-dim, within SCALE_BOUNDS), which ZeRO 3 shows only here."""
        low, high = SCALE_BOUNDS
        return self.from_features(self.features(eeg, subject)), self.log_scale[0].exp().clamp(low, high)

    def features(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        """What the heads read: the encoder's features [B, F], then those of the kept encoder if there is one."""
        features: Tensor = self.encoder(eeg, subject)
        if self.kept_encoder is None:
            return features
        # `neuroimagen adapt` trains parts of it for a new subject; a stage does not.
        trains = any(parameter.requires_grad for parameter in self.kept_encoder.parameters())
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            kept = self.kept_encoder(eeg, subject)
        return torch.cat([features, kept.to(features.dtype)], dim=1)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.kept_encoder is not None:
            self.kept_encoder.eval()  # what is not trained has no dropout
        return self

    def from_features(self, features: Tensor) -> dict[str, Tensor]:
        """The encoders' features [B, F] → embeddings [B, P] by kind."""
        return {kind: head(features) for kind, head in zip(self.kinds, self.heads, strict=True)}

    def centre(self, kind: str) -> Tensor:
        """What is subtracted from targets of `kind` before they are compared, [P]."""
        centre: Tensor = getattr(self, f"centre_{self.kinds.index(kind)}")
        return centre

    def centred(self, kind: str, targets: Tensor) -> Tensor:
        """Targets [N, P] as the frozen network made them → as embeddings are compared with them, [N, P]."""
        return targets - self.centre(kind)

    def image_embedding(self, eeg: Tensor, subject: Tensor | None, kind: str) -> Tensor:
        """The predicted embedding as a latent of the cached kind `kind`, float32 [B, P]: centre + length · direction.

        An embedding is trained for its direction (by cosines, unless `unit_norm` says otherwise), but what reads image
        embeddings (IP-Adapter, unCLIP) was trained on the frozen network's own, which have a mean and a typical length.
        Where the model does not centre its targets, the direction is the target's own, and the centre is zero.

        Raises UserError where the model was not trained on `kind`, or its export does not say the length.
        """
        self._require_space(kind)
        return self.in_space_of(kind, self(eeg, subject)[0][kind])

    def in_space_of(self, kind: str, embeddings: Tensor) -> Tensor:
        """Predicted embeddings [B, P] of `kind` → the space of the cached latents, as `image_embedding` gives them."""
        self._require_space(kind)
        length: Tensor = getattr(self, f"length_{self.kinds.index(kind)}")
        return F.normalize(embeddings.float(), dim=1) * length + self.centre(kind)

    def _require_space(self, kind: str) -> None:
        if kind not in self.kinds:
            raise UserError(
                f"the alignment stage was trained on {', '.join(self.kinds)}, not on {kind}. Add {kind} to "
                "alignment.targets and train it again, or choose one of these."
            )
        if not self.has_lengths:
            raise UserError(
                "the alignment stage was trained by a version that did not store how long image embeddings are. Train "
                "the stage again, or call AlignmentModel.fit_lengths with the run's latents and training stimuli."
            )

    @property
    def has_lengths(self) -> bool:
        """Whether the typical lengths of the training targets are known: older exports do not have them."""
        if self._has_lengths is None:
            lengths = [getattr(self, f"length_{place}") for place in range(len(self.kinds))]
            # Looked at once: reading a number waits for the device. On the meta device there is none to read.
            self._has_lengths = all(length.is_meta or bool(length.isfinite().all()) for length in lengths)
        return self._has_lengths

    def added_entries(self) -> dict[str, Tensor]:
        return {f"length_{place}": torch.full((1,), torch.nan) for place in range(len(self.kinds))}

    def _load_from_state_dict(self, *args: Any) -> None:
        self._has_lengths = None
        super()._load_from_state_dict(*args)

    def with_encoder(self, encoder: EEGEncoder) -> "AlignmentModel":
        """The same heads on `encoder`, which computes the same (EEGEncoder.for_subjects). The kept encoder gets parts
        of the same subjects.
        """
        if encoder is not self.encoder:
            self.encoder = encoder
            self.config = {**self.config, "encoder": encoder.config}
        if self.kept_encoder is not None:
            kept = self.kept_encoder.for_subjects(
                encoder.config.get("subjects", ()), subject_layers=encoder.subject_layers is not None
            )
            if kept is not self.kept_encoder:
                kept.to(self.kept_encoder.channel_mean.device)
                self.kept_encoder = kept.requires_grad_(False).eval()
                self.config = {**self.config, "kept_encoder": kept.config}
        return self

    @torch.no_grad()
    def fit_targets(self, stores: Mapping[str, LatentStore], stimuli: np.ndarray) -> None:
        """Set the centres to the means over the distinct `stimuli` (rows), where the model centres its targets, and the
        typical lengths.
        """
        if self.centre_targets:
            for kind in self.kinds:
                total = torch.zeros(self.embedding_sizes[kind], dtype=torch.float64)
                for targets in _parts(stores[kind], stimuli):
                    total += targets.sum(0)
                self.centre(kind).copy_(total / len(np.unique(stimuli)))
        self.fit_lengths(stores, stimuli)

    @torch.no_grad()
    def fit_lengths(self, stores: Mapping[str, LatentStore], stimuli: np.ndarray) -> None:
        """Set the typical lengths: means of ‖target − centre‖ over the distinct `stimuli` (rows)."""
        for place, kind in enumerate(self.kinds):
            centre = self.centre(kind).double().cpu()
            total = sum(float((targets - centre).norm(dim=1).sum()) for targets in _parts(stores[kind], stimuli))
            getattr(self, f"length_{place}").fill_(total / len(np.unique(stimuli)))
        self._has_lengths = None


def _parts(store: LatentStore, stimuli: np.ndarray) -> Iterator[Tensor]:
    """The latents of the distinct `stimuli`, float64, a few at a time."""
    unique = np.unique(stimuli)
    for start in range(0, len(unique), 1024):
        yield store.get(unique[start : start + 1024]).double()


def _head(head: HeadKind, feature_size: int, size: int, dropout: float, kind: str) -> nn.Module:
    if head == "none":
        if feature_size != size:
            raise ValueError(
                f"head: none needs encoder.feature_size {size}, the length of a {kind} embedding; it is {feature_size}"
            )
        return nn.Identity()
    if head == "linear":
        return nn.Linear(feature_size, size)
    return projector(feature_size, size, dropout)


def cosine_similarities(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Cosines of embeddings [B, P] with targets [N, P], [B, N]."""
    return F.normalize(embeddings, dim=1) @ F.normalize(targets, dim=1).T
