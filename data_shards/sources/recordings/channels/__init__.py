"""The channels of recordings: which are EEG, in which unit, and whether several recordings have the same."""
