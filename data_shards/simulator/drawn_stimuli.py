"""Procedurally drawn stimuli: twelve classes of object; colour, place, size, background and small details vary.

The classes have the names and WordNet ids of EEGCVPR40, so that a simulated study has the files of the real one. A
`Scene` is all that determines an image; drawing it is a pure function.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from neuroimagen.data_shards.simulator.object_drawings import DRAWINGS, INK, Colour, ObjectClass, Pen, mix

OBJECT_COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (252, 206, 40),
    "green": (56, 160, 70),
    "blue": (40, 90, 214),
    "purple": (135, 60, 175),
    "pink": (245, 140, 180),
    "white": (244, 244, 244),
}
BACKGROUND_COLOURS: dict[str, Colour] = {
    "black": (24, 24, 28),
    "grey": (128, 130, 134),
    "navy": (24, 40, 92),
    "teal": (20, 110, 112),
    "brown": (104, 66, 36),
    "cream": (240, 228, 196),
    "sky blue": (150, 204, 236),
}
_MIN_CONTRAST = 110.0  # smallest Euclidean distance in RGB between an object and its background

PLACE_RANGE = (0.34, 0.66)
SIZE_RANGE = (0.24, 0.40)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that determines an image."""

    class_index: int
    """Index into CLASSES."""
    x: float
    """Centre of the object from the left, as a fraction of the image's width."""
    y: float
    """Centre of the object from the top, as a fraction of the image's height."""
    size: float
    """Half of the object's extent, as a fraction of the image's width."""
    object_colour: int
    """Index into OBJECT_COLOURS."""
    background_colour: int
    """Index into BACKGROUND_COLOURS."""
    seed: int
    """Determines the small details: tilt and mirroring."""


CLASSES: tuple[ObjectClass, ...] = tuple(object_class for object_class, _ in DRAWINGS)

_OBJECT_RGB = np.array(list(OBJECT_COLOURS.values()), dtype=np.float64)
_BACKGROUND_RGB = np.array(list(BACKGROUND_COLOURS.values()), dtype=np.float64)
_PAIRS = np.argwhere(np.linalg.norm(_OBJECT_RGB[:, None] - _BACKGROUND_RGB[None], axis=2) >= _MIN_CONTRAST)


def sample_scene(rng: np.random.Generator, class_index: int | None = None) -> Scene:
    """Draw a scene at random: class, place, size and details uniform, colours uniform over the pairs that contrast."""
    chosen = int(rng.integers(len(CLASSES))) if class_index is None else class_index
    object_colour, background_colour = _PAIRS[rng.integers(len(_PAIRS))]
    return Scene(
        class_index=chosen,
        x=float(rng.uniform(*PLACE_RANGE)),
        y=float(rng.uniform(*PLACE_RANGE)),
        size=float(rng.uniform(*SIZE_RANGE)),
        object_colour=int(object_colour),
        background_colour=int(background_colour),
        seed=int(rng.integers(2**31)),
    )


def draw_scene(scene: Scene, size_px: int = 64) -> np.ndarray:
    """Draw a scene at four times the size and average it down. Returns uint8 RGB [size_px, size_px, 3]."""
    rng = np.random.default_rng(scene.seed)
    side = 4 * size_px
    background = BACKGROUND_COLOURS[list(BACKGROUND_COLOURS)[scene.background_colour]]
    colour = OBJECT_COLOURS[list(OBJECT_COLOURS)[scene.object_colour]]
    image = Image.new("RGB", (side, side), background)
    draw = ImageDraw.Draw(image)
    floor = round(side * (scene.y + 0.85 * scene.size))
    if floor < side:
        draw.rectangle((0, floor, side, side), fill=mix(background, INK, 0.22))
    pen = Pen(
        draw,
        centre=(scene.x * side, scene.y * side),
        scale=scene.size * side,
        tilt=float(np.radians(rng.uniform(-12, 12))),
        mirrored=bool(rng.random() < 0.5),
    )
    DRAWINGS[scene.class_index][1](pen, colour)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BOX))


def class_caption(scene: Scene) -> str:
    """Caption of the class: "an image of a coffee mug"."""
    name = CLASSES[scene.class_index].name
    return f"an image of {'an' if name[0] in 'aeiou' else 'a'} {name}"


def _thirds(value: float, words: tuple[str, str, str], limits: tuple[float, float]) -> str:
    low, high = limits
    return words[min(2, max(0, int(3 * (value - low) / (high - low))))]


def detailed_caption(scene: Scene) -> str:
    """Caption of the image: "a large red coffee mug at the top left on a navy background"."""
    size = _thirds(scene.size, ("small", "", "large"), SIZE_RANGE)
    vertical = _thirds(scene.y, ("top", "", "bottom"), PLACE_RANGE)
    horizontal = _thirds(scene.x, ("left", "", "right"), PLACE_RANGE)
    place = " ".join(word for word in (vertical, horizontal) if word) or "centre"
    colour = list(OBJECT_COLOURS)[scene.object_colour]
    background = list(BACKGROUND_COLOURS)[scene.background_colour]
    words = ("a", size, colour, CLASSES[scene.class_index].name, f"at the {place} on a {background} background")
    caption = " ".join(word for word in words if word)
    return caption.replace("a orange", "an orange", 1)


def layout_features(scene: Scene) -> np.ndarray:
    """Place, size and colours as numbers, float64 [9]: x, y, size, object RGB, background RGB.

    Each has about zero mean and unit variance under `sample_scene`: uniform quantities are scaled by their range,
    colours by the mean and standard deviation over the pairs that `sample_scene` draws.
    """
    uniform = [
        (value - (low + high) / 2) / ((high - low) / np.sqrt(12))
        for value, (low, high) in ((scene.x, PLACE_RANGE), (scene.y, PLACE_RANGE), (scene.size, SIZE_RANGE))
    ]
    objects, backgrounds = _OBJECT_RGB[_PAIRS[:, 0]], _BACKGROUND_RGB[_PAIRS[:, 1]]
    object_rgb = (_OBJECT_RGB[scene.object_colour] - objects.mean(0)) / objects.std(0)
    background_rgb = (_BACKGROUND_RGB[scene.background_colour] - backgrounds.mean(0)) / backgrounds.std(0)
    return np.concatenate([uniform, object_rgb, background_rgb])
