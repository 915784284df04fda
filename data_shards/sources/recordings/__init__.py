"""What the sources of recordings share: opening a file, its channels, its events, and cutting it into segments."""
