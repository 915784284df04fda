"""New EEG, from outside of a data set: what a trained run takes, and how EEG is brought to that."""
