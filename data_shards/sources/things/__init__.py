"""The THINGS studies: their images by concept, and the files that their recordings circulate in."""
