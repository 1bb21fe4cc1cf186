"""Prints the next one-time code: what a user's device does, as an `askpass_command`. Run as a file, by itself.

A code is HOTP (RFC 4226): made of a secret and a counter, and good once.

usage: one_time_code.py STATE PROMPT

STATE is a file with the secret in hexadecimal and the counter. Only a prompt for such a code is answered.
"""

from __future__ import annotations

import hashlib
import hmac
import sys
from pathlib import Path

_DIGITS = 6
# How pam_oath(8) asks.
_ASKED = "One-time password (OATH)"


def hotp(secret: bytes, counter: int) -> str:
    """The code for a counter (RFC 4226, 5.3)."""
    digest = hmac.new(secret, counter.to_bytes(8, "big"), hashlib.sha1).digest()
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(number % 10**_DIGITS).zfill(_DIGITS)


def next_code(state: Path) -> str:
    """The code that is next, which is then used up."""
    secret, counter = state.read_text(encoding="ascii").split()
    state.write_text(f"{secret} {int(counter) + 1}\n", encoding="ascii")
    return hotp(bytes.fromhex(secret), int(counter))


if __name__ == "__main__":
    if _ASKED not in sys.argv[2]:
        sys.exit(f"this is no prompt for a code: {sys.argv[2]!r}")
    print(next_code(Path(sys.argv[1])))
