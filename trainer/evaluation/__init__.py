"""Metrics, conditions, controls and the verdict on a finished run."""
