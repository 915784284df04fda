"""Building, starting, supervising and stopping a job of many ranks."""
