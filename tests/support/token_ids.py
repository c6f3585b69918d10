"""Print the ids that the engine's tokenizers give: ``token_ids.py NAMES [LOCALE]``, with texts as JSON on stdin.

The locale is set as a program sets that of its user. The texts are lists of bytes in base64.
"""

from __future__ import annotations

import base64
import json
import locale
import sys
from typing import Any

from sdcffi import SDError
from sdcffi._bindings.library import Library, load


def tokenize(library: Library, name: str, text: bytes) -> list[int]:
    """Return the ids of a text."""
    ids, count = library.ffi.new("int32_t **"), library.ffi.new("size_t *")

    def call(error: Any) -> int:
        status: int = library.lib.sdg_tokenize(name.encode(), text, ids, count, error)
        return status

    library.check(call, SDError, name, tuple)
    found = list(library.ffi.unpack(ids[0], count[0])) if count[0] else []
    library.lib.sdg_free(ids[0])
    return found


def main(names: str, locale_name: str = "") -> None:
    library = load()
    if locale_name:
        locale.setlocale(locale.LC_ALL, locale_name)
    texts = [base64.b64decode(text) for text in json.load(sys.stdin)]
    json.dump({name: [tokenize(library, name, text) for text in texts] for name in names.split(",")}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
