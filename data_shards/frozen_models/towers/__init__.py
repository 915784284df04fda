"""Image towers: frozen networks that turn an image into an embedding, one file each."""
