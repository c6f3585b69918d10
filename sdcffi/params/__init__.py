"""The engine's parameters as frozen dataclasses, the names that a caller gives them, and their plain forms.

Field names are the C names of `stable-diffusion.h`, so both can be searched for. None always means: leave what the
engine's own `*_params_init` wrote, `n_threads` excepted. Setting a field that the built engine does not have is an
`UnsupportedParameterError`; left at None it is ignored. Enumerations are given by name, as upstream's sd-cli spells
them. Values are checked when they are carried into the C struct, before any native call.
"""
