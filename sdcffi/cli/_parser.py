"""The parser of a command: errors in one line, a short help for most people, and a help with every flag."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from .._quoting import printable

__all__ = ["PROMPTS", "USAGE_STATUS", "HelpAll", "Parser", "ShortHelp", "as_utf8"]

USAGE_STATUS = 2
PROMPTS = frozenset({"prompt", "negative_prompt"})
"""Parameters whose values are texts; other texts are paths and names, and stay as the system has them."""
ShortHelp = Mapping[str, Mapping[str, str]]
"""By the title of a group, its flags and positional arguments, or its commands, each with a line of help."""


def as_utf8(text: str) -> str:
    """Return an argument as UTF-8 has it, where the locale's encoding has no such characters (``LC_ALL=C``)."""
    try:
        return os.fsencode(text).decode() if any("\udc80" <= sign <= "\udcff" for sign in text) else text
    except ValueError:  # it is not UTF-8, or has characters that this encoding cannot have read
        return text


class Parser(argparse.ArgumentParser):
    """Parser whose --help shows the flags of `short`, if there are any, and whose --help-all shows every flag."""

    short: ShortHelp | None = None
    short_end: str = ""

    def error(self, message: str) -> NoReturn:
        """Print the error in one line, and exit."""
        self.exit(USAGE_STATUS, f"{self.prog}: error: {printable(message)}; see {self.prog} --help\n")

    def format_help(self) -> str:
        """Return what --help prints."""
        return self.format_whole_help() if self.short is None else "\n".join(self._short_lines()) + "\n"

    def format_whole_help(self) -> str:
        """Return what --help-all prints."""
        return super().format_help()

    def _short_lines(self) -> Iterator[str]:
        assert self.short is not None
        actions = {name: action for action in self._actions for name in action.option_strings}
        words = {name: _words(name, actions.get(name)) for group in self.short.values() for name in group}
        width = max(map(len, words.values()))
        yield from (self.format_usage().strip(), "", str(self.description))
        for title, group in self.short.items():
            yield from ("", f"{title}:")
            yield from (f"  {words[name]:<{width}}  {text}" for name, text in group.items())
        yield from ("", self.short_end or f"Every flag: {self.prog} --help-all")


def _words(name: str, flag: argparse.Action | None) -> str:
    if flag is None:  # a positional argument, or a command
        return name
    letters = [other for other in flag.option_strings if not other.startswith("--")]
    return ", ".join([*letters, name]) + (f" {flag.metavar}" if flag.metavar else "")


class HelpAll(argparse.Action):
    """Print the help with every flag, and exit."""

    def __init__(self, option_strings: list[str], dest: str, **keywords: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **keywords)

    def __call__(self, parser: argparse.ArgumentParser, *_ignored: Any) -> NoReturn:
        """Print it."""
        assert isinstance(parser, Parser)
        print(parser.format_whole_help(), end="")
        parser.exit()
