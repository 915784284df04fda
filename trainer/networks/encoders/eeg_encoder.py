"""f_θ, the EEG encoder that stages train and export: normalisation, subject layers, and the trunk of one kind.

Shapes: B segments, C channels, T samples, F features.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.encoders.base import EncoderConfig, Trunk, UnknownSubject
from neuroimagen.trainer.networks.encoders.registry import ENCODERS, stored_encoder_config
from neuroimagen.trainer.networks.encoders.subject_layers import SubjectLayers, SubjectPart, SubjectTokens
from neuroimagen.trainer.networks.encoders.whitening import whitening_matrix
from neuroimagen.trainer.networks.pretrained import PretrainedModule

Finetuned = bool | Literal["subject_layers"]
"""Which weights of f_θ a stage trains: all, none, or the subjects' maps and tokens only."""


class EEGEncoder(PretrainedModule):
    """f_θ: EEG [B, C, T] float, and where it has parts of the subjects' own their numbers int64 [B] → features [B, F]
    float32.

    The channels are centred and whitened first, by the mean and the covariance of the training part
    (`fit_normalisation`); both are buffers, so an exported encoder takes the data set's own units.
    """

    model_type: ClassVar[str] = "eeg-encoder"
    channel_mean: Tensor
    whitening: Tensor

    def __init__(
        self, *, n_channels: int, n_samples: int, encoder: dict[str, Any], subjects: Sequence[int] | None = None
    ) -> None:
        """`subjects`: who has a subject layer or token, in this order; only and always where the encoder has such."""
        super().__init__()
        settings = stored_encoder_config(encoder)
        self.config = encoder_arguments(settings, n_channels=n_channels, n_samples=n_samples, subjects=subjects)
        self.n_channels = n_channels
        self.n_samples = n_samples
        self.feature_size = settings.feature_size
        self.whiten = settings.whiten
        self.register_buffer("channel_mean", torch.zeros(n_channels))
        self.register_buffer("whitening", torch.eye(n_channels))
        self.trunk: Trunk = ENCODERS[settings.kind](settings, n_channels=n_channels, n_samples=n_samples)
        self.subject_layers: SubjectLayers | None = None
        self.subject_tokens: SubjectTokens | None = None
        refuse = settings.unknown_subject == "error"
        if settings.subject_layers:
            self.subject_layers = SubjectLayers(self.config["subjects"], n_channels, refuse_unknown=refuse)
        if (size := self.trunk.token_size) is not None:
            self.subject_tokens = SubjectTokens(self.config["subjects"], size, refuse_unknown=refuse)

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        """`subject` is ignored where nothing is a subject's own, so every caller may give it. Raises ValueError for
        segments of another size, and where the subject is missing.
        """
        if eeg.shape[1:] != (self.n_channels, self.n_samples):
            raise ValueError(
                f"EEG of {tuple(eeg.shape[1:])} channels × samples given to an encoder for "
                f"({self.n_channels}, {self.n_samples})"
            )
        projection = self.projection(subject)
        if self.subject_tokens is None:
            return self.trunk(eeg, self.channel_mean, projection)
        if subject is None:
            raise ValueError("the encoder has subject tokens: give the segments' subjects")
        return self.trunk(eeg, self.channel_mean, projection, self.subject_tokens(subject))

    @property
    def subject_parts(self) -> dict[str, SubjectPart]:
        """What it has of each subject's own, by its name in the state."""
        parts = {"subject_layers": self.subject_layers, "subject_tokens": self.subject_tokens}
        return {name: part for name, part in parts.items() if part is not None}

    def projection(self, subject: Tensor | None) -> Tensor:
        """What is done to centred channels before the trunk: the whitening [C, C], or with subject layers A_s ·
        whitening [B, C, C].
        """
        if self.subject_layers is None:
            return self.whitening
        if subject is None:
            raise ValueError("the encoder has subject layers: give the segments' subjects")
        projection: Tensor = self.subject_layers(self.whitening, subject)
        return projection

    def for_subjects(
        self, subjects: Sequence[int], *, unknown_subject: UnknownSubject = "mean", subject_layers: bool = True
    ) -> "EEGEncoder":
        """This encoder with parts for each of `subjects` as well, those of a new one at the mean of those it has: until
        it is trained it computes the same.

        `subject_layers`: an encoder without them gets them, each the identity; `unknown_subject` is then that of an
        encoder that had nothing of the subjects' own.
        """
        old = self.config.get("subjects", [])
        added = [subject for subject in subjects if subject not in old]
        gets_layers = subject_layers and self.subject_layers is None
        if not gets_layers and not (added and self.subject_parts):
            return self
        arguments: dict[str, Any] = copy.deepcopy(self.config)
        if gets_layers:
            arguments["encoder"] = {"unknown_subject": unknown_subject} | arguments["encoder"]
            arguments["encoder"]["subject_layers"] = True
        wider = EEGEncoder(**arguments | {"subjects": [*old, *added]})
        weights = self.state_dict()
        for name, part in wider.subject_parts.items():
            own = self.subject_parts.get(name)
            weights[f"{name}.offsets"] = part.offsets.detach() if own is None else own.widened(len(added))
        wider.load_state_dict(weights)
        return wider.train(self.training)

    @torch.no_grad()
    def fit_normalisation(self, segments: Iterable[Tensor]) -> None:
        """Set the channels' mean and the whitening matrix from batches of training segments, each [B, C, T]."""
        count = 0
        total = torch.zeros(self.n_channels, dtype=torch.float64)
        products = torch.zeros(self.n_channels, self.n_channels, dtype=torch.float64)
        for batch in segments:
            values = batch.detach().cpu().double().transpose(0, 1).flatten(1)  # [C, B·T]
            count += values.shape[1]
            total += values.sum(dim=1)
            products += values @ values.T
        if count == 0:
            raise ValueError("no segments to fit the normalisation on")
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        self.channel_mean.copy_(mean)
        self.whitening.copy_(whitening_matrix(covariance, decorrelate=self.whiten))

    @torch.no_grad()
    def fit_trunk(self, segments: Iterable[Tensor]) -> None:
        """Let the trunk estimate its own statistics from batches of training segments, after `fit_normalisation`.

        Subjects' maps count as the identity that they start as.
        """
        self.trunk.fit(segments, self.channel_mean, self.whitening)


def encoder_arguments(
    config: EncoderConfig, *, n_channels: int, n_samples: int, subjects: Sequence[int] | None
) -> dict[str, Any]:
    """The keyword arguments that EEGEncoder is made with, as JSON values; `subjects` only where it reads them."""
    arguments: dict[str, Any] = {"n_channels": n_channels, "n_samples": n_samples, "encoder": config.stored()}
    if config.reads_subjects:
        if subjects is None:
            raise ValueError("an encoder with subject layers or tokens needs to know the subjects")
        arguments["subjects"] = list(subjects)
    return arguments


def build_encoder(
    config: EncoderConfig, *, n_channels: int, n_samples: int, subjects: Sequence[int] | None = None
) -> EEGEncoder:
    """A freshly initialised encoder for segments of `n_channels` × `n_samples`, of `subjects`."""
    return EEGEncoder(**encoder_arguments(config, n_channels=n_channels, n_samples=n_samples, subjects=subjects))


def choose_finetuned(encoder: EEGEncoder, wanted: Finetuned) -> None:
    """Let gradients reach what of an encoder is trained with a stage's own layers: all, nothing, or its subjects' maps
    and tokens alone. Raises UserError where there are none.
    """
    encoder.requires_grad_(wanted is True)
    if wanted == "subject_layers":
        if not encoder.subject_parts:
            raise UserError(
                "finetune_encoder: subject_layers needs an encoder that has them. Set encoder.subject_layers=true, or "
                "finetune_encoder to true or false."
            )
        for part in encoder.subject_parts.values():
            part.requires_grad_(True)
