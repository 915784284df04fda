"""Drawn stimuli: scenes, their images, captions and layout features."""

import dataclasses
import hashlib

import numpy as np
import pytest

from neuroimagen.data_shards.simulator.drawn_stimuli import (
    BACKGROUND_COLOURS,
    CLASSES,
    OBJECT_COLOURS,
    PLACE_RANGE,
    SIZE_RANGE,
    Scene,
    class_caption,
    detailed_caption,
    draw_scene,
    layout_features,
    sample_scene,
)

SCENE = Scene(class_index=4, x=0.36, y=0.36, size=0.38, object_colour=0, background_colour=2, seed=5)


def test_a_scene_determines_its_image() -> None:
    image = draw_scene(SCENE, 32)
    assert (image.dtype, image.shape) == (np.uint8, (32, 32, 3))
    np.testing.assert_array_equal(draw_scene(SCENE, 32), image)
    for change in ({"class_index": 5}, {"x": 0.6}, {"size": 0.25}, {"object_colour": 3}, {"seed": 6}):
        assert (draw_scene(dataclasses.replace(SCENE, **change), 32) != image).any()


def test_object_and_background_have_their_colours_and_places() -> None:
    scene = Scene(class_index=8, x=0.36, y=0.64, size=0.3, object_colour=4, background_colour=5, seed=0)  # a golf ball
    image = draw_scene(scene, 64).astype(int)
    blue, cream = np.array(list(OBJECT_COLOURS.values())[4]), np.array(list(BACKGROUND_COLOURS.values())[5])
    np.testing.assert_array_equal(image[2, 60], cream)
    is_blue = np.linalg.norm(image - blue, axis=2) < 30
    rows, columns = np.nonzero(is_blue)
    assert rows.mean() / 64 == pytest.approx(0.64, abs=0.06)
    assert columns.mean() / 64 == pytest.approx(0.36, abs=0.06)


def test_sampled_scenes_stay_in_their_ranges_and_contrast() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(500)]
    assert {scene.class_index for scene in scenes} == set(range(len(CLASSES)))
    for scene in scenes:
        assert PLACE_RANGE[0] <= min(scene.x, scene.y)
        assert max(scene.x, scene.y) <= PLACE_RANGE[1]
        assert SIZE_RANGE[0] <= scene.size <= SIZE_RANGE[1]
        colour = list(OBJECT_COLOURS.values())[scene.object_colour]
        background = list(BACKGROUND_COLOURS.values())[scene.background_colour]
        assert np.linalg.norm(np.subtract(colour, background)) >= 110
    assert sample_scene(np.random.default_rng(1), 3).class_index == 3


def test_layout_features_have_zero_mean_and_unit_variance() -> None:
    rng = np.random.default_rng(0)
    features = np.stack([layout_features(sample_scene(rng)) for _ in range(4000)])
    assert features.shape == (4000, 9)
    np.testing.assert_allclose(features.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(features.std(0), 1, atol=0.1)
    same = layout_features(dataclasses.replace(SCENE, class_index=7, seed=1))
    np.testing.assert_array_equal(same, layout_features(SCENE))  # neither the class nor the details


def test_captions_say_what_is_drawn() -> None:
    assert class_caption(SCENE) == "an image of a coffee mug"
    assert class_caption(dataclasses.replace(SCENE, class_index=0)) == "an image of an airliner"
    assert detailed_caption(SCENE) == "a large red coffee mug at the top left on a navy background"
    middle = dataclasses.replace(SCENE, x=0.5, y=0.5, size=0.32, object_colour=1)
    assert detailed_caption(middle) == "an orange coffee mug at the centre on a navy background"


def test_the_images_never_change() -> None:
    """The bundled model was trained on such images, and simulated studies are made of them."""
    rng = np.random.default_rng(7)
    drawn = b"".join(draw_scene(sample_scene(rng, label), 32).tobytes() for label in range(len(CLASSES)))
    assert hashlib.sha256(drawn).hexdigest()[:16] == "e93265e57f887a29"
