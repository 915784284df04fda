"""Every source of recordings by its name on the command line: `neuroimagen data ingest NAME`."""

from typing import TYPE_CHECKING

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.registry import Registry

if TYPE_CHECKING:
    from neuroimagen.data_shards.sources.base import Source

_HERE = "neuroimagen.data_shards.sources"

SOURCES: Registry[object] = Registry(
    "source",
    "neuroimagen.sources",
    {
        "eegcvpr40": f"{_HERE}.eegcvpr40:EegCvpr40Source",
        "eegcvpr40-parquet": f"{_HERE}.published.eegcvpr40_parquet:EegCvpr40ParquetSource",
        "things-eeg2": f"{_HERE}.things.eeg2:ThingsEeg2Source",
        "things-eeg1": f"{_HERE}.things.eeg1:ThingsEeg1Source",
        "things-meg": f"{_HERE}.things.meg:ThingsMegSource",
        "eeg-imagenet": f"{_HERE}.published.eeg_imagenet:EegImageNetSource",
        "alljoined1": f"{_HERE}.published.alljoined1:Alljoined1Source",
        "alljoined-1.6m": f"{_HERE}.published.alljoined_1600k:Alljoined1600kSource",
        "mindbigdata": f"{_HERE}.published.mindbigdata:MindBigDataSource",
        "thoughtviz": f"{_HERE}.published.thoughtviz:ThoughtVizSource",
        "bids": f"{_HERE}.bids:BidsSource",
        "mne": f"{_HERE}.mne:MneSource",
        "arrays": f"{_HERE}.arrays:ArraySource",
    },
)
"""Another package adds a source as an entry point of the group neuroimagen.sources (docs/how-to/extending.md)."""


def source_class(name: str) -> "type[Source]":
    """The class of a source. Raises UserError for an unknown name and for a class that does not implement `Source`."""
    from neuroimagen.data_shards.sources.base import Source

    found = SOURCES[name]
    if not (isinstance(found, type) and issubclass(found, Source)):
        raise UserError(
            f"the source {name!r} is {found!r}; it must be a class derived from {Source.__module__}.Source."
        )
    required = ("HELP", "DESCRIPTION", "EXAMPLES")
    if missing := [text for text in required if not hasattr(found, text)] + sorted(found.__abstractmethods__):
        raise UserError(
            f"the source {name!r} does not define {', '.join(missing)}. {found.__module__}.{found.__qualname__} must "
            f"define all that {Source.__module__}.Source asks for."
        )
    return found
