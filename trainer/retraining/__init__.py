"""Stages of a run that are trained again: without folds of the stimuli, without a subject, on a drift surrogate."""
