"""Checks of parameters in pure Python, made before native code sees them."""
