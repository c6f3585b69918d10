"""Records of how an image was generated: parameters, files with digests, and their text forms."""
