"""One module per action of `neuroimagen data`, imported when the action runs; and what several of them print."""
