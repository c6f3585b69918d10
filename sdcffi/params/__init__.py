"""The engine's parameters as frozen dataclasses, the names that a caller gives them, and their plain forms.

Field names are the C names of `stable-diffusion.h`, as the oldest verified revision has it, so both can be searched
for. Where a newer header has replaced a field, `_bindings.words` says how its value is told. None always means: keep
what the engine's own `*_params_init` wrote; only `n_threads` differs. Setting a field that the built engine cannot be
told raises `UnsupportedParameterError`; a field that is None is ignored. Enumerations are given by name, as upstream's
sd-cli spells them. Values are checked when they are written into the C struct, before any native call.
"""
