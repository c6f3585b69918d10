"""A catalogue with one model, and perhaps a LoRA, for tests."""

from __future__ import annotations

from collections.abc import Mapping

_ABOUT = 'title = "A tiny one"\nlicence = "MIT"\ngood_at = "tests"\npage = "nowhere"\n'


def small_catalogue(
    files: Mapping[str, str],
    lora: str | None = None,
    recommended: Mapping[str, object] | None = None,
    digests: Mapping[str, str] | None = None,
) -> str:
    """Return the text of a catalogue.

    Parameters
    ----------
    files : mapping of str to str
        References of the files of the model ``tiny``, by keyword of `Engine`.
    lora : str, optional
        Reference of the file of the LoRA ``ink``, whose strength is 0.5. None: there is none.
    recommended : mapping of str to object, optional
        Values for the model.
    digests : mapping of str to str, optional
        The sha256 of files, by keyword.
    """
    digests = {role: f', sha256 = "{digest}"' for role, digest in (digests or {}).items()}
    places = "".join(f'{role} = {{ reference = "{path}"{digests.get(role, "")} }}\n' for role, path in files.items())
    text = f'[[model]]\nname = "tiny"\nfamily = "flux2"\nengines = ["2026-05", "2026-08"]\n{_ABOUT}'
    text += f"[model.variants.f16]\n{places}"
    if recommended:
        values = "".join(f"{name} = {value}\n" for name, value in recommended.items())
        text += f'[[model.recommended]]\nsource = "a test"\n{values}'
    if lora is not None:
        text += f'[[lora]]\nname = "ink"\nbase = ["tiny"]\nstrength = 0.5\n{_ABOUT}file = {{ reference = "{lora}" }}\n'
    return text
