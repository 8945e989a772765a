"""From names of images to digests, behind one protocol."""
