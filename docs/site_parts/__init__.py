"""What the site shows of the code itself: Sphinx extensions."""
