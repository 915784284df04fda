"""The names of EEGCVPR40's 40 object classes, by WordNet id, in the order of its labels."""

import re
from collections.abc import Iterable
from types import MappingProxyType

from neuroimagen.data_shards.common.errors import UserError

EEGCVPR40_CLASS_NAMES = MappingProxyType(
    {
        "n02389026": "sorrel",
        "n03888257": "parachute",
        "n03584829": "iron",
        "n02607072": "anemone fish",
        "n03297495": "espresso maker",
        "n03063599": "coffee mug",
        "n03792782": "mountain bike",
        "n04086273": "revolver",
        "n02510455": "giant panda",
        "n11939491": "daisy",
        "n02951358": "canoe",
        "n02281787": "lycaenid",
        "n02106662": "German shepherd",
        "n04120489": "running shoe",
        "n03590841": "jack-o'-lantern",
        "n02992529": "cellular telephone",
        "n03445777": "golf ball",
        "n03180011": "desktop computer",
        "n02906734": "broom",
        "n07873807": "pizza",
        "n03773504": "missile",
        "n02492035": "capuchin",
        "n03982430": "pool table",
        "n03709823": "mailbag",
        "n03100240": "convertible",
        "n03376595": "folding chair",
        "n03877472": "pajama",
        "n03775071": "mitten",
        "n03272010": "electric guitar",
        "n04069434": "reflex camera",
        "n03452741": "grand piano",
        "n03792972": "mountain tent",
        "n07753592": "banana",
        "n13054560": "bolete",
        "n03197337": "digital watch",
        "n02504458": "African elephant",
        "n02690373": "airliner",
        "n03272562": "electric locomotive",
        "n04044716": "radio telescope",
        "n02124075": "Egyptian cat",
    }
)
"""WordNet id → name; the position is the label in the published files."""


def differing_classes(images: Iterable[tuple[str, str]], *, limit: int = 3) -> str:
    """The first images whose name begins with another WordNet id than their class, as text; empty if there are none.

    images: name and WordNet id of the class. Names that do not begin with a WordNet id, as ImageNet's do, say nothing.
    """
    wrong = {
        name: wnid
        for name, wnid in images
        if (match := re.match(r"n\d{8}(?=_)", name.rsplit("/", 1)[-1])) and match[0] != wnid
    }
    shown = ", ".join(f"{name} in class {wnid}" for name, wnid in list(wrong.items())[:limit])
    return f"{shown} ({len(wrong)} images)" if wrong else ""


def refuse_differing_classes(images: Iterable[tuple[str, str]], where: str) -> None:
    """Raise UserError where an image's name begins with another WordNet id than its class has: captions would be wrong.

    images: name and class, which may be a WordNet id or a name that belongs to one; other classes say nothing.
    """
    wnid_of = {name: wnid for wnid, name in EEGCVPR40_CLASS_NAMES.items()}

    def wnid(name: str) -> str:
        return name if re.fullmatch(r"n\d{8}", name) else wnid_of.get(name, "")

    said = [(image, wnid(name)) for image, name in images]
    if differing := differing_classes([(image, known) for image, known in said if known]):
        raise UserError(f"{where}: the classes and the images' names say different classes: {differing}.")


def class_caption(class_name: str) -> str:
    """The caption of the method for a class: "an image of {class name}"."""
    return f"an image of {class_name}"
