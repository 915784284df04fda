"""What an encoder has of each subject's own: a linear map of the channels, a token."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError


class SubjectPart(nn.Module):
    """One tensor for each subject; a subject that has none gets the mean of all, or is refused.

    Shapes: B segments, C channels, W length of a token.
    """

    noun: ClassVar[str]
    subject_numbers: Tensor

    def __init__(self, subjects: Sequence[int], offsets: Tensor, *, refuse_unknown: bool) -> None:
        """`offsets`: [subjects, …], what is trained, in the subjects' order."""
        super().__init__()
        if not subjects or len(set(subjects)) != len(subjects):
            raise ValueError(f"{self.noun}s need distinct subjects, got {list(subjects)}")
        self.subjects = tuple(subjects)
        self.refuse_unknown = refuse_unknown
        self.offsets = nn.Parameter(offsets)
        # Not in the export: config.json says it.
        self.register_buffer("subject_numbers", torch.tensor(self.subjects, dtype=torch.int64), persistent=False)

    def with_mean(self) -> Tensor:
        """The subjects' tensors and then their mean, [subjects + 1, …]."""
        return torch.cat([self.offsets, self.offsets.mean(dim=0, keepdim=True)])

    def place(self, subject: Tensor) -> Tensor:
        """Place of the subjects int64 [B] in `with_mean`, [B]. Raises UserError naming one that has none where
        `refuse_unknown`.
        """
        own = subject[:, None] == self.subject_numbers  # [B, subjects]
        known = own.any(dim=1, keepdim=True)
        if self.refuse_unknown and not known.is_meta and not known.all():
            raise UserError(
                f"subject {int(subject[~known[:, 0]][0])} has no {self.noun}; the encoder was trained on "
                f"{list(self.subjects)}. Adapt it to the subject, or set encoder.unknown_subject=mean."
            )
        return torch.cat([own, ~known], dim=1).int().argmax(dim=1)

    def widened(self, number: int) -> Tensor:
        """`offsets` with `number` more subjects at the mean of those that there are."""
        own = self.offsets.detach()
        mean = own.mean(dim=0, keepdim=True)
        return torch.cat([own, mean.expand(number, *own.shape[1:])])


class SubjectLayers(SubjectPart):
    """A_s = 1 + D_s, one [C, C] map for each subject s ("subject layer": Défossez et al. 2023, Nature Machine
    Intelligence 5, §"Brain module").

    D starts at 0 and is what is trained, so that weight decay draws a subject with little data towards the identity and
    not towards silence.
    """

    noun = "subject layer"

    def __init__(self, subjects: Sequence[int], n_channels: int, *, refuse_unknown: bool) -> None:
        super().__init__(subjects, torch.zeros(len(subjects), n_channels, n_channels), refuse_unknown=refuse_unknown)

    def forward(self, whitening: Tensor, subject: Tensor) -> Tensor:
        """A_s · whitening [B, C, C] for the subjects int64 [B]; the mean of all A for a subject that has none."""
        place = self.place(subject)
        return (whitening + self.with_mean() @ whitening)[place]


class SubjectTokens(SubjectPart):
    """t + d_s, one vector for each subject s, which a transformer reads as a token beside those of the channels (ATM).

    The d start at 0, so that a subject without training segments has the token that all share.
    """

    noun = "subject token"

    def __init__(self, subjects: Sequence[int], token_size: int, *, refuse_unknown: bool) -> None:
        super().__init__(subjects, torch.zeros(len(subjects), token_size), refuse_unknown=refuse_unknown)
        self.shared = nn.Parameter(torch.randn(token_size))

    def forward(self, subject: Tensor) -> Tensor:
        """Tokens [B, W] of the subjects int64 [B]; the mean of all tokens for a subject that has none."""
        return self.shared + self.with_mean()[self.place(subject)]
