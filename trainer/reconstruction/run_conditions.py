"""Which conditions a run allows: what each needs, what of that is there, and what the images are then made from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import read_json_object, reason
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.networks.pretrained import CONFIG_FILE
from neuroimagen.trainer.reconstruction.conditions import (
    IMAGE_CONDITIONS,
    PREDICTED_IMAGES,
    PREDICTED_PROMPTS,
    ImageCondition,
    headline_conditions,
)
from neuroimagen.trainer.reconstruction.config import ReconstructConfig
from neuroimagen.trainer.reconstruction.headline import read_choice

Export = Literal["saliency", "semantic", "semantic_detailed", "fine_tuned", "alignment", "prior", "vae_latent"]
"""Keys of the recipe's `reconstruct` section that name a stage."""


@dataclass(frozen=True, kw_only=True)
class RunConditions:
    """What the stages of a run, its model and the cached latents allow to draw."""

    run: Path
    model: Path
    config: ReconstructConfig
    targets: Mapping[str, str]
    """What of the model takes an image embedding (an IP-Adapter by its name, unCLIP) → the kind of cached latent that
    it takes; {} for a model that takes none."""
    fine_tuned_targets: Mapping[str, str] = field(default_factory=dict)
    """The same for the fine-tuned U-Net, where IP-Adapters were trained with it; {} where none were."""
    widths: Mapping[str, int] = field(default_factory=dict)
    """What of the model takes an image embedding → the width of that embedding."""
    trained: frozenset[str] = frozenset()
    """IP-Adapters that the run's diffusion stage trained beside the frozen U-Net."""
    untrained: tuple[str, ...] = ()
    """IP-Adapters that the recipe calls new, and that no stage has trained for the model's own U-Net."""
    configured: frozenset[str] = frozenset()
    """Those that the recipe names in `model.ip_adapters`, which the model folder would not have by itself."""
    open_latents: Callable[[str], LatentStore] | None = None
    """Kind → the cached latents of the data set."""
    every_condition_is_side: bool = False
    """Whether `side_segments` holds for the headline and `neuroimagen` too, as where the headline is being chosen."""

    # --- the exports -----------------------------------------------------------------------------------------------

    def export(self, key: Export) -> Path:
        """Folder of the exported networks of the stage that a key of the configuration names."""
        stage: str = getattr(self.config, key)
        return self.run / stage / "export"

    def needs(self, name: str) -> list[Path]:
        """The exports that a condition is drawn with."""
        condition = self.resolved(name)
        keys: list[Export] = []
        if condition.start in ("saliency map", "stimulus at saliency map size"):
            keys.append("saliency")
        if condition.start == "predicted latent":
            keys.append("vae_latent")
        if condition.prompt in PREDICTED_PROMPTS:
            keys.append(condition.prompt)  # type: ignore[arg-type]  # these prompts are called as the keys are
        if condition.image in PREDICTED_IMAGES:
            keys.append("alignment")
            if condition.image == "predicted without prior" or self.export("prior").is_dir():
                keys.append("prior")
        if condition.image is not None and self.trained:
            keys.append("fine_tuned")
        return [self.export(key) for key in keys]

    def _exported(self, key: Export) -> dict[str, Any]:
        """The configuration of an export's network; {} where there is none."""
        path = self.export(key) / CONFIG_FILE
        try:
            content = read_json_object(path) if path.is_file() else {}
            sizes, kinds = content.get("embedding_sizes", {}), [content.get("kind"), content.get("condition_kind")]
            if not isinstance(sizes, dict) or not all(type(size) is int for size in sizes.values()):
                raise ValueError(f"embedding_sizes is {str(sizes)[:80]}")
            if not all(isinstance(kind, str | None) for kind in kinds):
                raise ValueError(f"kind and condition_kind are {str(kinds)[:80]}")
            return content
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {reason(error)}. Export the stage again.") from error

    # --- image embeddings ------------------------------------------------------------------------------------------

    def targets_of(self, condition: ImageCondition) -> Mapping[str, str]:
        """What takes an image embedding → its kind, of the U-Net that a condition is drawn with."""
        return self.fine_tuned_targets if condition.prompt == "fine_tuned" else self.targets

    def through_prior(self, condition: ImageCondition) -> dict[str, bool]:
        """What takes an image embedding → whether a predicted one goes through the prior."""
        kind = self._exported("prior").get("kind") if condition.image == "predicted" else None
        return {taker: target == kind for taker, target in self.targets_of(condition).items()}

    def why_no_image(self, *, fine_tuned: bool = False) -> str | None:
        """Why no image embedding is predicted for the model's own U-Net, or the fine-tuned one; None where one is."""
        if self.untrained and not fine_tuned:
            return (
                f"model.ip_adapters.{self.untrained[0]} is new, and {self.export('fine_tuned')} holds no such adapter "
                "for the model's own U-Net (train diffusion with diffusion.train=adapter)"
            )
        targets = self.fine_tuned_targets if fine_tuned else self.targets
        if not targets:
            return f"{self.model} takes no image embedding (it has no IP-Adapter and is no unCLIP model)"
        alignment = self.export("alignment")
        if not alignment.is_dir():
            return f"{alignment} does not exist"
        return self._kind_not_predicted(targets, with_prior=True)

    def _kind_not_predicted(self, targets: Mapping[str, str], *, with_prior: bool) -> str | None:
        """Why the alignment stage, or its prior, does not give the kind of embedding that the model takes."""
        kinds = self._exported("alignment").get("embedding_sizes", {})
        prior = self._exported("prior") if with_prior else {}
        for taker, kind in targets.items():
            wanted = prior.get("condition_kind", kind) if prior.get("kind") == kind else kind
            if wanted not in kinds:
                change = f", or change model.ip_adapters.{taker}.target" if taker in self.configured else ""
                return (
                    f"{taker} takes {kind} embeddings, and the {self.config.alignment} stage predicts "
                    f"{', '.join(kinds) or 'none'}: add {wanted} to {self.config.alignment}.targets and train it"
                    f"{change}"
                )
        return None

    def check(self) -> None:
        """Raise UserError where what the recipe configures and what was trained contradict each other."""
        if not self.targets or not self.export("alignment").is_dir():
            return
        prior = self._exported("prior")
        if prior and prior.get("kind") not in self.targets.values():
            takes = ", ".join(f"{taker} {kind}" for taker, kind in self.targets.items())
            raise UserError(
                f"the {self.config.prior} stage makes {prior.get('kind')} embeddings, but the model takes others "
                f"({takes}). Train the prior for a kind that it takes, or change model.ip_adapters.NAME.target."
            )
        reason = self._kind_not_predicted(self.targets, with_prior=True)
        if reason is not None and self.configured:
            raise UserError(f"{reason}.")
        predicted = dict(self._exported("alignment").get("embedding_sizes", {}))
        if "embedding_size" in prior:
            predicted[prior["kind"]] = prior["embedding_size"]
        for taker, kind in self.targets.items():
            found, width = predicted.get(kind), self.widths.get(taker)
            if found is not None and width is not None and found != width:
                raise UserError(
                    f"{taker} takes image embeddings of width {width}; those of kind {kind!r} that the run predicts "
                    f"have width {found}. Choose model.ip_adapters.{taker}.target among the kinds of the image tower "
                    "that the adapter was trained with."
                )

    def stores(self) -> dict[str, LatentStore]:
        """The cached latents of every kind that the model takes. Raises UserError where one is not cached."""
        if self.open_latents is None:
            raise UserError("no cached latents were given to draw image embeddings from.")
        return {kind: self.open_latents(kind) for kind in self.targets.values()}

    # --- the conditions --------------------------------------------------------------------------------------------

    def resolved(self, name: str) -> ImageCondition:
        """A condition as it is drawn here: without the image embedding where there is none and it may be left out, and
        with it where the fine-tuned U-Net was trained with IP-Adapters.
        """
        condition = IMAGE_CONDITIONS[name]
        fine_tuned = condition.prompt == "fine_tuned"
        if fine_tuned and self.fine_tuned_targets:
            condition = replace(condition, image="predicted", image_if_any=True)
        if condition.image_if_any and self.why_no_image(fine_tuned=fine_tuned) is not None:
            return replace(condition, image=None)
        return condition

    def missing(self, name: str) -> str | None:
        """Why a condition cannot be drawn; None if it can."""
        condition = self.resolved(name)
        fine_tuned = condition.prompt == "fine_tuned"
        if fine_tuned and self.trained:
            return f"{self.export('fine_tuned')} holds an IP-Adapter for the model's own U-Net, and no fine-tuned U-Net"
        if condition.image is not None and not fine_tuned and (self.untrained or not self.targets):
            return self.why_no_image()
        for path in self.needs(name):
            if not path.is_dir():
                return f"{path} does not exist"
        if condition.image is None:
            return None
        if condition.image == "predicted":
            return self.why_no_image(fine_tuned=fine_tuned)
        if condition.image == "predicted without prior":
            return self._kind_not_predicted(self.targets, with_prior=False)
        try:
            self.stores()
        except UserError as error:
            return str(error)
        return None

    def _says_nothing(self, name: str) -> str | None:
        """Why a condition that can be drawn is left out unless it is named."""
        if name == "neuroimagen" and self.resolved("full").image is None and self.missing("full") is None:
            return "full is the same: the run has no image embedding for this model"
        if IMAGE_CONDITIONS[name].image in ("true", "other", "mean") and (reason := self.why_no_image()) is not None:
            return f"the run predicts no image embedding that it could be compared with: {reason}"
        return None

    def to_draw(self) -> tuple[list[str], dict[str, str]]:
        """The conditions to draw, and for those left out of the default the reason.

        Raises UserError when the configuration names a condition that cannot be drawn, when none that sees the EEG can
        be, and when configuration and trained stages contradict each other.
        """
        self.check()
        if self.config.conditions is not None:
            for name in self.config.conditions:
                if (reason := self.missing(name)) is not None:
                    raise UserError(
                        f"the condition {name} cannot be drawn: {reason}. Train that stage, or leave the condition out."
                    )
            return list(self.config.conditions), {}
        reasons = {name: self.missing(name) or self._says_nothing(name) for name in IMAGE_CONDITIONS}
        left_out = {name: reason for name, reason in reasons.items() if reason is not None}
        drawn = [name for name in IMAGE_CONDITIONS if name not in left_out]
        if not any(IMAGE_CONDITIONS[name].sees_eeg for name in drawn):
            raise UserError(
                f"{self.run} cannot be reconstructed from: for class caption and saliency map {left_out['full']}; for "
                f"the image embedding {left_out['image_only']}. Train a stage that images are drawn with first."
            )
        return drawn, left_out

    def candidates(self) -> list[str]:
        """The conditions among which the headline is chosen. Raises UserError for one that cannot be drawn."""
        named = self.config.choose.conditions
        allowed = replace(self, config=replace(self.config, conditions=named)).to_draw()[0]
        return allowed if named is not None else [name for name in headline_conditions() if name in allowed]

    def headline(self) -> str:
        """The condition that was chosen, else `full`, or the first that the run allows where it has no `full`."""
        choice = read_choice(self.run)
        if choice is not None:
            return choice.condition
        return next((name for name in ("full", *headline_conditions()) if self.missing(name) is None), "full")

    def is_side(self, name: str) -> bool:
        """Whether `side_segments` applies to a condition."""
        return self.every_condition_is_side or name not in (self.headline(), "neuroimagen")
