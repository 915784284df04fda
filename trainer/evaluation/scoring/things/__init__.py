"""The feature networks and the protocol of the figures that THINGS papers print."""
