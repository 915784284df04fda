"""Tables that say what was shown, read a column at a time."""
