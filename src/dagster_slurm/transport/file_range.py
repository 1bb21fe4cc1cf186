"""Bytes of an open file that go into a socket without a copy in this process."""

from __future__ import annotations

import errno
import os
from typing import IO

_BLOCK_BYTES = 1 << 16
# Some file systems and some kinds of socket do not do it (sendfile(2), EINVAL and ENOSYS; elsewhere ENOTSUP, ENOTSOCK).
_NOT_DONE_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOTSOCK)


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
        self._copied = False
        file.seek(self._offset + size)

    def __len__(self) -> int:
        return self._left

    def move_to(self, sink: IO[bytes]) -> bool:
        """Move what the sink takes. False when there is nothing left, or the file is at its end."""
        try:
            moved = self._copy(sink) if self._copied else self._send(sink)
        except BlockingIOError:
            return True
        except OSError as error:
            if self._copied or error.errno not in _NOT_DONE_HERE:
                raise
            self._copied = True
            return True
        if not moved:
            return False
        self._offset += moved
        self._left -= moved
        return self._left > 0

    def _send(self, sink: IO[bytes]) -> int:
        return os.sendfile(sink.fileno(), self._descriptor, self._offset, self._left)

    def _copy(self, sink: IO[bytes]) -> int:
        block = os.pread(self._descriptor, min(self._left, _BLOCK_BYTES), self._offset)
        if not block:
            return 0
        written = sink.write(block)
        if written is None:
            raise BlockingIOError
        return written
