"""The diffusion prior: an embedding predicted from EEG → an image embedding as the frozen network makes them.

A regression's answer to EEG that leaves several images open is their mean, an embedding of none; a sample of the prior
is the embedding of one of them (Ramesh et al. 2022; for EEG: ATM, Li et al. 2024).

Shapes: B embeddings, E length of an image embedding, P length of a condition.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.networks.pretrained import PretrainedModule
from neuroimagen.trainer.networks.prior_networks import PriorMLP, PriorTokens

PriorNetwork = Literal["mlp", "transformer"]
Prediction = Literal["epsilon", "sample"]
NETWORKS: Mapping[str, type[nn.Module]] = {"mlp": PriorMLP, "transformer": PriorTokens}
NUM_TIMESTEPS = 1000
BETAS = (1e-4, 2e-2)
"""DDPM's linear schedule (Ho et al. 2020), which is ATM's."""


class PriorModel(PretrainedModule):
    """Denoises image embeddings [B, E] under conditions [B, P], the alignment stage's `image_embedding`.

    Both are standardised entry by entry with statistics of the training split, which are buffers: `sample` takes and
    gives embeddings in the space of the cached kinds.
    """

    model_type: ClassVar[str] = "prior-model"
    target_mean: Tensor
    target_std: Tensor
    condition_mean: Tensor
    condition_std: Tensor
    target_bound: Tensor
    alphas_cumprod: Tensor

    def __init__(
        self,
        *,
        kind: str,
        condition_kind: str,
        embedding_size: int,
        condition_size: int,
        network: PriorNetwork,
        network_settings: Mapping[str, Any],
        prediction: Prediction,
        sampling_steps: int,
        guidance: float,
    ) -> None:
        """kind: of cached latent that samples are. condition_kind: the alignment stage's embedding that conditions.
        sampling_steps, guidance: what `sample` uses unless it is told otherwise.
        """
        super().__init__()
        self.config = {
            "kind": kind,
            "condition_kind": condition_kind,
            "embedding_size": embedding_size,
            "condition_size": condition_size,
            "network": network,
            "network_settings": {
                key: list(value) if isinstance(value, tuple) else value for key, value in network_settings.items()
            },
            "prediction": prediction,
            "sampling_steps": sampling_steps,
            "guidance": guidance,
        }
        self.kind, self.condition_kind = kind, condition_kind
        self.embedding_size, self.condition_size = embedding_size, condition_size
        self.prediction = prediction
        self.sampling_steps, self.guidance = sampling_steps, guidance
        self.network = NETWORKS[network](
            embedding_size=embedding_size, condition_size=condition_size, **network_settings
        )
        for name, size in (("target", embedding_size), ("condition", condition_size)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("target_bound", torch.full((1,), torch.inf))
        betas = torch.linspace(*BETAS, NUM_TIMESTEPS)
        self.register_buffer("alphas_cumprod", (1 - betas).cumprod(0), persistent=False)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor, dropped: Tensor) -> Tensor:
        """What the network predicts [B, E] of standardised `noisy` embeddings [B, E] at `timesteps` int64 [B]: the
        noise, or the embedding without it. condition: [B, P] as it comes; where `dropped` [B] is true it is left out.
        """
        condition = _standardised(condition, self.condition_mean, self.condition_std)
        predicted: Tensor = self.network(noisy, timesteps, condition, dropped)
        return predicted

    def standardised(self, targets: Tensor) -> Tensor:
        """Image embeddings [B, E] of the cached kind → as the network sees them; 0 where all targets are equal."""
        return _standardised(targets, self.target_mean, self.target_std)

    def noised(self, targets: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ_t · x + √(1 − ᾱ_t) · ε of standardised targets."""
        alpha = self.alphas_cumprod.to(targets.device)[timesteps][:, None]
        return alpha.sqrt() * targets + (1 - alpha).sqrt() * noise

    @torch.no_grad()
    def sample(
        self, embedding: Tensor, noise: Tensor, *, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """Image embeddings float32 [B, E] in the space of the cached kind; the same noise gives the same samples.

        embedding: [B, P], the alignment stage's `image_embedding`. noise: standard normal [B, E]. guidance g:
        u + g · (c − u) of the predictions with and without the condition (Ho and Salimans 2022); 1: the condition
        alone; 0: without it. DDIM (Song et al. 2021) with η 0 and `steps` steps; what a step takes for the embedding
        without noise is kept within the entries of the training targets: at the first steps a small error of predicted
        noise is a hundred times as large in it.

        Raises UserError for more steps than there are timesteps.
        """
        from diffusers import DDIMScheduler

        steps = self.sampling_steps if steps is None else steps
        guidance = self.guidance if guidance is None else guidance
        if not 1 <= steps <= NUM_TIMESTEPS:
            raise UserError(f"the prior samples in 1 to {NUM_TIMESTEPS} steps, not in {steps}.")
        bound = float(self.target_bound)
        is_bounded = bound < float("inf")
        solver = DDIMScheduler(
            num_train_timesteps=NUM_TIMESTEPS,
            beta_start=BETAS[0],
            beta_end=BETAS[1],
            beta_schedule="linear",
            clip_sample=is_bounded,
            clip_sample_range=bound,
            prediction_type=self.prediction,
            timestep_spacing="trailing",
        )
        solver.set_timesteps(steps)
        x, condition = noise.float(), embedding.float()
        dropped = torch.full((len(x),), guidance == 0, dtype=torch.bool, device=x.device)
        guided = guidance not in (0, 1)
        if guided:
            condition, dropped = torch.cat([condition, condition]), torch.cat([~dropped, dropped])
        for timestep, on_device in zip(solver.timesteps, solver.timesteps.to(x.device), strict=True):
            given = torch.cat([x, x]) if guided else x
            predicted = self(given, on_device.expand(len(given)), condition, dropped).float()
            if guided:
                without, conditional = predicted.chunk(2)
                predicted = without + guidance * (conditional - without)
            x = solver.step(predicted, timestep, x, use_clipped_model_output=is_bounded, return_dict=False)[0]
        return x * self.target_std + self.target_mean

    @torch.no_grad()
    def fit_targets(self, store: LatentStore, stimuli: np.ndarray) -> None:
        """Set the targets' mean, standard deviation and bound from the distinct `stimuli` (rows)."""
        unique = np.unique(stimuli)
        places = [unique[start : start + 1024] for start in range(0, len(unique), 1024)]
        _fit((store.get(rows) for rows in places), self.target_mean, self.target_std)
        bounds = [self.standardised(store.get(rows).to(self.target_mean.device)).abs().max() for rows in places]
        self.target_bound.fill_(torch.stack(bounds).max())

    @torch.no_grad()
    def fit_conditions(self, conditions: Tensor) -> None:
        """Set the conditions' mean and standard deviation from those of training segments, [N, P]."""
        _fit(iter(conditions.split(4096)), self.condition_mean, self.condition_std)


def _standardised(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    varies = std > 0
    return torch.where(varies, (values.float() - mean) / std.where(varies, 1.0), 0.0)


def _fit(parts: Iterator[Tensor], mean: Tensor, std: Tensor) -> None:
    """Set mean and standard deviation [K] from all rows of `parts` [n, K]."""
    count = 0
    total, square = torch.zeros(2, len(mean), dtype=torch.float64)
    for part in parts:
        values = part.double().cpu()
        count += len(values)
        total += values.sum(0)
        square += values.square().sum(0)
    average = total / count
    spread = (square / count - average.square()).clamp_min(0).sqrt()
    # Below this an entry's spread is rounding: it is constant.
    constant = spread <= 1e-4 * average.abs().clamp_min(1e-3)
    mean.copy_(average)
    std.copy_(torch.where(constant, 0.0, spread))
