"""gzip on every processor: blocks are compressed side by side, which the bytes do not tell."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

BLOCK = 1 << 20
WINDOW = 1 << 15
"""How far back deflate may refer: each block may refer to the end of the one before it."""

HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
"""Of a gzip file by RFC 1952: deflate, without a name, a time or a system."""


class GzipWriter(io.RawIOBase):
    """One gzip member that is written into another file, which stays open."""

    def __init__(self, file: IO[bytes], level: int) -> None:
        self._file, self._level = file, level
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        self._waiting: deque[Future[bytes]] = deque()
        self._held, self._before = bytearray(), b""
        self._crc = self._size = 0
        file.write(HEADER)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size + len(self._held)

    def write(self, data: Any) -> int:
        self._held += data
        while len(self._held) > BLOCK:
            block = bytes(self._held[:BLOCK])
            del self._held[:BLOCK]
            self._hand_out(block)
            # No more in memory than keeps every processor busy.
            if len(self._waiting) > 2 * (os.cpu_count() or 1):
                self._file.write(self._waiting.popleft().result())
        return len(data)

    def close(self) -> None:
        """Complete the member."""
        if self.closed:
            return
        try:
            self._hand_out(bytes(self._held), last=True)
            for part in self._waiting:
                self._file.write(part.result())
            self._file.write(struct.pack("<LL", self._crc, self._size & 0xFFFFFFFF))
        finally:
            self._pool.shutdown()
            super().close()

    def _hand_out(self, block: bytes, *, last: bool = False) -> None:
        deflate = zlib.compressobj(self._level, zlib.DEFLATED, -15, zdict=self._before)
        end = zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH
        self._waiting.append(
            self._pool.submit(lambda: deflate.compress(block) + deflate.flush(end))
        )
        self._crc, self._size = zlib.crc32(block, self._crc), self._size + len(block)
        self._before = block[-WINDOW:]
