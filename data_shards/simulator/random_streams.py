"""Independent random streams for everything that a study draws."""

import numpy as np

# The purpose of a stream: the top word of Philox's counter. A new purpose gets a new number.
STREAM_SEGMENT, STREAM_STIMULUS, STREAM_HEAD, STREAM_SESSION, STREAM_SPLIT, STREAM_CEILING = range(6)
STREAM_IDENTIFICATION = 6
GROUP_SEED = 20170721  # of what is the same in every study: the sources of the group


def random_stream(seed: int, stream: int, index: int = 0) -> np.random.Generator:
    """The generator of one thing (segment, stimulus, …) in a study; independent of all others."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64), counter=[0, 0, 0, stream]))
