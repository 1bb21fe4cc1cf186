"""Text for people."""

from __future__ import annotations

import re

# Characters that a terminal obeys, and those that turn the order of what is read: CVE-2021-42574.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Text in which a terminal obeys tabs and ends of lines alone; any other such character is shown, as `\x1b`."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def size_words(size_bytes: float) -> str:
    """Bytes in the unit that fits, a power of 1024, to three digits: "200 MiB", "1.5 GiB"."""
    amount, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{amount:.0f} {units[0]}" if amount >= 100 else f"{amount:.3g} {units[0]}"


def duration_words(seconds: float) -> str:
    """A duration in the unit that fits: "42 s", "21 min", "2.5 h", "3 d"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    length, unit = (3600, "h") if seconds < 172_800 else (86_400, "d")
    return f"{seconds / length:.1f}".removesuffix(".0") + f" {unit}"
