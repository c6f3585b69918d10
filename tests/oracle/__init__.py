"""Reference images of small models, computed with torch, diffusers and transformers from the same files.

The tests need none of these: `python -m oracle` writes small data, which they compare the engine's images with.
"""
