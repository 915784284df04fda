"""A linear map of the channels for each subject."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError


class SubjectLayers(nn.Module):
    """A_s = 1 + D_s, one [C, C] map for each subject s ("subject layer": Défossez et al. 2023, Nature Machine
    Intelligence 5, §"Brain module").

    D starts at 0 and is what is trained, so that weight decay draws a subject with little data towards the identity and
    not towards silence.
    """

    subject_numbers: Tensor

    def __init__(self, subjects: Sequence[int], n_channels: int, *, refuse_unknown: bool) -> None:
        super().__init__()
        if not subjects or len(set(subjects)) != len(subjects):
            raise ValueError(f"subject layers need distinct subjects, got {list(subjects)}")
        self.subjects = tuple(subjects)
        self.refuse_unknown = refuse_unknown
        self.offsets = nn.Parameter(torch.zeros(len(subjects), n_channels, n_channels))
        # Not in the export: config.json says it.
        self.register_buffer("subject_numbers", torch.tensor(self.subjects, dtype=torch.int64), persistent=False)

    def forward(self, whitening: Tensor, subject: Tensor) -> Tensor:
        """A_s · whitening [B, C, C] for the subjects int64 [B]; the mean of all A for a subject that has none.

        Raises UserError naming that subject where `refuse_unknown`.
        """
        own = subject[:, None] == self.subject_numbers  # [B, subjects]
        known = own.any(dim=1, keepdim=True)
        if self.refuse_unknown and not known.is_meta and not known.all():
            raise UserError(
                f"subject {int(subject[~known[:, 0]][0])} has no subject layer; the encoder was trained on "
                f"{list(self.subjects)}. Adapt it to the subject, or set encoder.unknown_subject=mean."
            )
        offsets = torch.cat([self.offsets, self.offsets.mean(dim=0, keepdim=True)])
        place = torch.cat([own, ~known], dim=1).int().argmax(dim=1)
        return (whitening + offsets @ whitening)[place]
