"""Which conditions a run allows, from the configurations of its exports alone: no network is loaded."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS
from neuroimagen.trainer.reconstruction.config import ChooseConfig, ReconstructConfig
from neuroimagen.trainer.reconstruction.headline import OBJECTIVE, Choice, write_choice
from neuroimagen.trainer.reconstruction.run_conditions import RunConditions

GAN_AND_TEXT = ("saliency", "semantic")
TEXT_ORACLES = {"oracle_class", "vae_round_trip", "random_class", "mean_image"}
ALONE = {"oracle_image", "other_image", "mean_image_embedding"}


def stages(run: Path, *names: str, kinds: Sequence[str] = ("image",), prior: tuple[str, str] | None = None) -> Path:
    """A run with exports of these stages. kinds: of alignment. prior: (its kind, its condition's)."""
    exports: dict[str, dict[str, Any]] = {name: {} for name in names}
    if "alignment" in exports:
        exports["alignment"] = {"embedding_sizes": dict.fromkeys(kinds, 16)}
    if prior is not None:
        exports["prior"] = {"kind": prior[0], "condition_kind": prior[1]}
    for name, config in exports.items():
        (run / name / "export").mkdir(parents=True)
        (run / name / "export" / "config.json").write_text(json.dumps(config))
    return run


def no_latents(kind: str) -> LatentStore:
    raise UserError(f"no {kind} latents")


def allowed(run: Path, *, targets: dict[str, str] | None = None, cached: bool = True, **changes: Any) -> RunConditions:
    keys = ("configured", "open_latents", "fine_tuned_targets", "widths", "trained", "untrained")
    settings = {key: changes.pop(key) for key in keys if key in changes}
    return RunConditions(
        run=run,
        model=Path("model"),
        config=ReconstructConfig(**changes),
        targets={"ip_adapter": "image"} if targets is None else targets,
        **({"open_latents": (lambda kind: None) if cached else no_latents} | settings),  # type: ignore[arg-type]
    )


def test_a_run_without_an_alignment_stage_has_the_conditions_it_always_had(tmp_path: Path) -> None:
    run = stages(tmp_path, *GAN_AND_TEXT, "semantic_detailed", "diffusion")
    for conditions in (allowed(run), allowed(run, targets={})):
        names, left_out = conditions.to_draw()
        assert names == [
            *("full", "semantic_only", "saliency_only", "full_detailed", "semantic_only_detailed", "fine_tuned"),
            *("full_fine_tuned", "oracle_class", "perfect_saliency", "vae_round_trip", "random_class", "mean_image"),
        ]
        assert {*names, *left_out} == set(IMAGE_CONDITIONS)
        full = conditions.resolved("full")
        assert (full.prompt, full.start, full.image) == ("semantic", "saliency map", None)
        assert [path.parent.name for path in conditions.needs("full")] == ["saliency", "semantic"]
        assert conditions.headline() == "full"
    assert "takes no image embedding" in allowed(run, targets={}).to_draw()[1]["image_only"]
    assert "alignment/export does not exist" in allowed(run).to_draw()[1]["image_only"]


def test_everything_there_is_is_drawn(tmp_path: Path) -> None:
    run = stages(
        tmp_path,
        *(*GAN_AND_TEXT, "semantic_detailed", "diffusion", "alignment", "vae_latent"),
        prior=("image", "image"),
    )
    assert allowed(run).to_draw() == (list(IMAGE_CONDITIONS), {})
    assert [path.parent.name for path in allowed(run).needs("full")] == ["saliency", "semantic", "alignment", "prior"]
    assert allowed(run).through_prior(IMAGE_CONDITIONS["full"]) == {"ip_adapter": True}
    assert allowed(run).through_prior(IMAGE_CONDITIONS["full_no_prior"]) == {"ip_adapter": False}


def test_without_a_prior_there_is_nothing_to_compare_it_with(tmp_path: Path) -> None:
    names, left_out = allowed(stages(tmp_path, *GAN_AND_TEXT, "alignment")).to_draw()
    assert "neuroimagen" in names
    assert {name for name in left_out if name.endswith("_no_prior")} == {
        *("full_no_prior", "image_and_text_no_prior", "image_only_no_prior")
    }
    assert "prior/export does not exist" in left_out["full_no_prior"]
    with pytest.raises(UserError, match=r"full_no_prior cannot be drawn: .*prior/export does not exist"):
        allowed(tmp_path, conditions=("full_no_prior",)).to_draw()


def test_an_alignment_stage_alone_is_enough(tmp_path: Path) -> None:
    conditions = allowed(stages(tmp_path, "alignment"))
    names, _ = conditions.to_draw()
    assert set(names) == {"image_only", *ALONE, *TEXT_ORACLES}
    assert conditions.headline() == "image_only"


def test_a_run_that_draws_nothing_from_the_eeg_is_an_error(tmp_path: Path) -> None:
    tmp_path.joinpath("contrastive").mkdir()
    with pytest.raises(UserError, match=r"cannot be reconstructed from: .*saliency/export does not exist"):
        allowed(tmp_path).to_draw()
    assert allowed(tmp_path, conditions=("mean_image",)).to_draw() == (["mean_image"], {})
    semantic = stages(tmp_path / "one", "semantic")
    names, left_out = allowed(semantic).to_draw()
    assert names[0] == "semantic_only"
    assert "saliency/export does not exist" in left_out["full"]


def test_oracles_need_cached_embeddings(tmp_path: Path) -> None:
    run = stages(tmp_path, *GAN_AND_TEXT, "alignment")
    names, left_out = allowed(run, cached=False).to_draw()
    assert "full" in names
    assert {name for name, why in left_out.items() if why == "no image latents"} == {
        *(f"{kind}{way}" for kind in ("oracle_image", "other_image") for way in ("", "_and_text", "_full")),
        *(f"mean_image_embedding{way}" for way in ("", "_and_text", "_full")),
    }
    assert "no cached latents" in allowed(run, open_latents=None).to_draw()[1]["oracle_image"]
    # By name the generator's oracle can be drawn in a run without an alignment stage.
    other = stages(tmp_path / "other", *GAN_AND_TEXT)
    assert "oracle_image" not in allowed(other).to_draw()[0]
    assert allowed(other, conditions=("oracle_image",)).to_draw()[0] == ["oracle_image"]


def test_an_adapter_takes_a_kind_that_the_alignment_stage_predicts(tmp_path: Path) -> None:
    run = stages(tmp_path, *GAN_AND_TEXT, "alignment", kinds=("dino",))
    # The model folder's own adapter was not asked for: the run is drawn as without one.
    names, left_out = allowed(run).to_draw()
    assert "ip_adapter takes image embeddings, and the alignment stage predicts dino" in left_out["image_only"]
    assert "neuroimagen" not in names
    with pytest.raises(UserError, match=r"add image to alignment\.targets .*change model\.ip_adapters\.mine\.target"):
        allowed(run, targets={"mine": "image"}, configured=frozenset({"mine"})).to_draw()
    both = stages(tmp_path / "both", *GAN_AND_TEXT, "alignment", kinds=("dino", "image"))
    assert "image_only" in allowed(both, targets={"a": "dino", "b": "image"}).to_draw()[0]


def test_a_prior_gives_the_kind_that_is_taken(tmp_path: Path) -> None:
    run = stages(tmp_path / "run", *GAN_AND_TEXT, "alignment", kinds=("dino",), prior=("image", "dino"))
    names, left_out = allowed(run).to_draw()
    assert {"full", "image_only"} <= set(names)
    assert "predicts dino" in left_out["image_only_no_prior"]
    wrong = stages(tmp_path / "wrong", *GAN_AND_TEXT, "alignment", prior=("dino", "image"))
    with pytest.raises(UserError, match=r"the prior stage makes dino embeddings, .*ip_adapter image"):
        allowed(wrong).to_draw()


def test_side_conditions_are_all_but_the_headline_and_neuroimagen(tmp_path: Path) -> None:
    conditions = allowed(stages(tmp_path, *GAN_AND_TEXT, "alignment"))
    assert {name for name in IMAGE_CONDITIONS if not conditions.is_side(name)} == {"full", "neuroimagen"}
    write_choice(
        tmp_path,
        Choice(
            condition="image_only",
            by={"ssim": 1.0},
            num_segments=4,
            num_stimuli=2,
            figures={"image_only": {OBJECTIVE: {"value": 0.5, "low": None, "high": None}}},
            settings={"image_only": {}},
        ),
    )
    assert {name for name in IMAGE_CONDITIONS if not conditions.is_side(name)} == {"image_only", "neuroimagen"}
    assert all(map(dataclasses.replace(conditions, every_condition_is_side=True).is_side, IMAGE_CONDITIONS))


def test_candidates_are_those_that_are_named_or_all_that_see_the_eeg(tmp_path: Path) -> None:
    run = stages(tmp_path, *GAN_AND_TEXT, "alignment")
    named = allowed(run, choose=ChooseConfig(conditions=("image_only", "full")), conditions=("mean_image",))
    assert named.candidates() == ["image_only", "full"]
    every = allowed(run, choose=ChooseConfig(conditions=None))
    assert every.candidates() == [
        *("full", "neuroimagen", "image_and_text", "image_only", "semantic_only", "saliency_only")
    ]
    with pytest.raises(UserError, match="fine_tuned cannot be drawn"):
        allowed(run, choose=ChooseConfig(conditions=("full", "fine_tuned"))).candidates()


def test_a_damaged_export_is_named(tmp_path: Path) -> None:
    run = stages(tmp_path, "alignment")
    (run / "alignment" / "export" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*alignment/export/config\.json: .*Export the stage again"):
        allowed(run).to_draw()


def test_a_trained_adapter_is_what_images_of_embeddings_are_drawn_with(tmp_path: Path) -> None:
    run = stages(tmp_path, *GAN_AND_TEXT, "alignment", "diffusion")
    conditions = allowed(run, trained=frozenset({"ip_adapter"}))
    assert [path.parent.name for path in conditions.needs("image_only")] == ["alignment", "diffusion"]
    assert [path.parent.name for path in conditions.needs("oracle_image")] == ["diffusion"]
    assert [path.parent.name for path in conditions.needs("neuroimagen")] == ["saliency", "semantic"]
    assert "no fine-tuned U-Net" in str(conditions.missing("full_fine_tuned"))


def test_an_adapter_that_was_trained_with_the_u_net_belongs_to_its_conditions(tmp_path: Path) -> None:
    run = stages(tmp_path, *GAN_AND_TEXT, "alignment", "diffusion", kinds=("image", "image-h"))
    conditions = allowed(run, fine_tuned_targets={"mine": "image-h"})
    resolved = conditions.resolved("fine_tuned")
    assert resolved.image == "predicted"
    assert conditions.targets_of(resolved) == {"mine": "image-h"}
    assert conditions.targets_of(conditions.resolved("full")) == {"ip_adapter": "image"}
    assert [path.parent.name for path in conditions.needs("fine_tuned")] == ["diffusion", "alignment"]
    assert allowed(run).resolved("fine_tuned").image is None
    other = allowed(run, fine_tuned_targets={"mine": "dino"})  # which is not predicted
    assert other.resolved("fine_tuned").image is None
    assert other.missing("fine_tuned") is None


def test_a_new_adapter_that_no_stage_has_trained_leaves_its_conditions_out(tmp_path: Path) -> None:
    run = stages(tmp_path, *GAN_AND_TEXT, "alignment")
    conditions = allowed(run, targets={}, untrained=("mine",))
    for name in ("image_only", "oracle_image", "full_no_prior"):
        assert "model.ip_adapters.mine is new" in str(conditions.missing(name)), name
    assert conditions.resolved("full").image is None
    assert conditions.missing("full") is None


def test_embeddings_of_another_width_than_the_adapter_takes_are_refused(tmp_path: Path) -> None:
    run = stages(tmp_path, *GAN_AND_TEXT, "alignment")  # it predicts embeddings of width 16
    allowed(run, widths={"ip_adapter": 16}).to_draw()
    message = r"takes image embeddings of width 20; those of kind 'image' that the run predicts have width 16"
    with pytest.raises(UserError, match=message):
        allowed(run, widths={"ip_adapter": 20}).to_draw()
