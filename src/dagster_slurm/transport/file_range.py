"""Bytes of an open file that go into a pipe without a copy in this process."""

from __future__ import annotations

import errno
import os
from typing import IO

_BLOCK_BYTES = 1 << 16


class FileRange:
    """The next bytes of an open file, which is then behind them.

    Args:
        file: A file of this machine's file system.
        size: How many bytes; there may be fewer.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._descriptor = file.fileno()
        self._offset = file.tell()
        self._left = size
        self._spliced = hasattr(os, "splice")
        file.seek(self._offset + size)

    def __len__(self) -> int:
        return self._left

    def move_to(self, pipe: IO[bytes]) -> bool:
        """Move what the pipe takes. False when there is nothing left, or the file is at its end."""
        try:
            moved = self._splice(pipe) if self._spliced else self._copy(pipe)
        except BlockingIOError:
            return True
        except OSError as error:
            # Some file systems do not do it (splice(2)).
            if error.errno != errno.EINVAL or not self._spliced:
                raise
            self._spliced = False
            return True
        if moved is None:
            return False
        self._offset += moved
        self._left -= moved
        return self._left > 0

    def _splice(self, pipe: IO[bytes]) -> int | None:
        return os.splice(self._descriptor, pipe.fileno(), self._left, offset_src=self._offset) or None

    def _copy(self, pipe: IO[bytes]) -> int | None:
        block = os.pread(self._descriptor, min(self._left, _BLOCK_BYTES), self._offset)
        return (pipe.write(block) or 0) if block else None
