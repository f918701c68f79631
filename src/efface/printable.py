"""Text of others as it can be shown: nothing in it controls a terminal or turns a line."""

from __future__ import annotations

import unicodedata

__all__ = ["is_text", "printable"]

_TURNING = (
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff"
)
"""Marks that turn or break lines, and with them what a reader takes for the text."""


def printable(text: str) -> str:
    r"""Writes what controls a terminal or a line as escapes, such as ``\x1b``; all else stays.

    New lines and tabs stay, too. One home of this rule: the terminal, cards and pages use it.
    """
    return "".join(map(_shown, text))


def is_text(text: str) -> bool:
    """Says whether text can be written as UTF-8; bytes of other encodings in arguments cannot."""
    return not any(unicodedata.category(letter) == "Cs" for letter in text)


def _shown(letter: str) -> str:
    odd = letter in _TURNING or unicodedata.category(letter) in ("Cc", "Cs")
    if not odd or letter in "\n\t":
        return letter
    return letter.encode("unicode-escape").decode("ascii")
