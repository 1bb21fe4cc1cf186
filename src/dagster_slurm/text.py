"""Text for people."""

from __future__ import annotations

import re

# Characters that a terminal obeys, and those that turn the order of what is read: CVE-2021-42574.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Text in which a terminal obeys tabs and ends of lines alone; any other such character is shown, as `\x1b`."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
