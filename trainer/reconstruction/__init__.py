"""From trained stages to images on disk."""
