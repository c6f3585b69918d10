"""What made an image: files and their digests, the parameters, and the texts that hold them."""
