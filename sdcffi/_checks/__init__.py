"""Refuse bad parameters before native code sees them, in pure Python."""
