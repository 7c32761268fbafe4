"""Text files as blocks of whole lines, unpacked, in UTF-8 and numbered; used by every format.

A block is some megabytes, so that a parser in compiled code takes thousands of lines at once and
memory stays bounded. Each block knows its first line, so that every error can name file and line.
"""

from __future__ import annotations

import codecs
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeAlias

from evalrec.interactions import DataError

READ_BYTES = 2**18  # of text that are read at once
BLOCK_BYTES = 2**24  # once this many bytes are read, their whole lines become a block
LINE_BYTES = 2**24  # maximal length of a line, so that a file of one line cannot fill the memory
QUOTED_BYTES = 2**24  # maximal length of a quoted field, so that a stray quote ends the search
_PACKED_BYTES = 2**16  # of a gzip file that are read at once

Advance: TypeAlias = Callable[[int], None]
"""Called with the bytes of the file that were read since the last call."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Whole lines of a file.

    Attributes:
        path: The file.
        first_line: The number of the first line, from 1.
        data: The bytes: valid UTF-8, whatever the encoding of the file.
        num_lines: How many lines the block holds; the last may lack its line feed.
    """

    path: Path
    first_line: int
    data: bytes
    num_lines: int

    def lines(self) -> Iterator[tuple[int, str]]:
        """Each line with its number, without its line feed."""
        text = self.data.decode()
        for number, line in enumerate(text.split("\n"), start=self.first_line):
            yield number, line.removesuffix("\r")


def check_file(path: Path) -> None:
    """Refuse a path that is not a file, and an empty file.

    Raises:
        DataError: If the path is missing, a folder, a device or an empty file.
        PermissionError: If this user may not look.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} is missing") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise DataError(f"{path} is {kind}, not a file")
    if status.st_size == 0:
        raise DataError(f"{path} is empty")


def read_blocks(
    path: Path,
    *,
    encoding: str = "utf-8",
    quote: str | None = None,
    advance: Advance | None = None,
) -> Iterator[Block]:
    """The lines of a text file, unpacked if its name ends in .gz or .zst, in blocks.

    Args:
        path: The file.
        encoding: The encoding of the file, as Python names it, with or without a byte order
            mark; UTF-16 must name its byte order: "utf-16-le" or "utf-16-be".
        quote: The quote sign of fields that may hold line feeds; no block ends inside such a field.
        advance: Called with the bytes read; for a packed file, these are compressed bytes.

    Raises:
        DataError: If the file is missing or empty, its gzip stream or its text is broken, a line
            is longer than 16 MiB, or a quoted field does not end.
    """
    check_file(path)
    line = 1
    pending = bytearray()
    try:
        chunks = read_chunks(path, advance)
        for chunk in chunks if encoding == "utf-8" else _as_utf8(chunks, encoding):
            pending += chunk
            if chunk and len(pending) < min(BLOCK_BYTES, LINE_BYTES):
                continue
            _refuse_long_line(path, pending, line)
            if chunk and len(pending) < BLOCK_BYTES:
                continue
            end = end_of_lines(pending, quote) if chunk else len(pending)
            if quote and end == 0 and len(pending) >= QUOTED_BYTES:
                name = "a double quote" if quote == '"' else f"the quote {quote}"
                raise DataError(
                    f"{path}, line {line}: {name} opens a field that does not end within "
                    f"{QUOTED_BYTES:,} bytes: double a quote that is text, and quote its field"
                )
            with memoryview(pending) as view:
                data = bytes(view[:end])
            del pending[:end]
            line_feeds = data.count(b"\n")
            if data:
                _check_text(path, data, line)
                if line == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                yield Block(
                    path=path,
                    first_line=line,
                    data=data,
                    num_lines=line_feeds + (0 if data.endswith(b"\n") else 1),
                )
            line += line_feeds
    except (EOFError, zlib.error) as error:
        line += pending.count(b"\n")
        raise DataError(f"{path}, line {line}: the gzip stream is broken: {error}") from error
    except UnicodeError as error:
        line += pending.count(b"\n")
        raise DataError(f"{path}, line {line}: the text is not {encoding}: {error}") from error


def _refuse_long_line(path: Path, pending: bytearray, first_line: int) -> None:
    """Refuse a line of more than LINE_BYTES; `pending` has fewer than twice as many bytes."""
    if len(pending) <= LINE_BYTES:
        return
    middle = len(pending) // 2  # a line that is too long contains this byte
    start, end = pending.rfind(b"\n", 0, middle) + 1, pending.find(b"\n", middle)
    if (len(pending) if end < 0 else end) - start > LINE_BYTES:
        line = first_line + pending.count(b"\n", 0, start)
        raise DataError(f"{path}, line {line}: is longer than {LINE_BYTES:,} bytes, the maximum")


def read_lines(
    path: Path, *, encoding: str = "utf-8", advance: Advance | None = None
) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, with its number.

    Raises:
        DataError: For the same reasons as `read_blocks`.
    """
    for block in read_blocks(path, encoding=encoding, advance=advance):
        for number, line in block.lines():
            if line.strip():
                yield number, line


def text_encoding(path: Path) -> str:
    """The encoding of a file: "utf-8" if all of it is UTF-8, else "latin-1".

    Raises:
        DataError: If the file is missing or empty.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    check_file(path)
    try:
        for chunk in read_chunks(path):
            decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError:
        return "latin-1"
    except (EOFError, zlib.error):
        return "utf-8"  # the reader of the lines reports where its encoding breaks
    return "utf-8"


def end_of_lines(pending: bytearray, quote: str | None) -> int:
    """The end of the last whole line; with a `quote`, of the last one that ends outside quotes."""
    end = pending.rfind(b"\n") + 1
    sign = (quote or "").encode()
    if not sign or sign not in pending:
        return end
    is_inside = pending.count(sign, 0, end) % 2
    while end and is_inside:
        start = pending.rfind(b"\n", 0, end - 1) + 1
        is_inside ^= pending.count(sign, start, end) % 2
        end = start
    return end


def read_chunks(path: Path, advance: Advance | None = None) -> Iterator[bytes]:
    """The bytes of a file, unpacked if it is packed; an empty chunk at the end."""
    if path.name.lower().endswith(".zst"):
        yield from _zstandard_lines(path)
        if advance is not None:
            advance(path.stat().st_size)
        yield b""
        return
    with path.open("rb") as raw:
        is_packed = path.name.lower().endswith(".gz")
        position = 0
        for chunk in _unpacked(raw) if is_packed else iter(partial(raw.read, READ_BYTES), b""):
            if advance is not None and raw.tell() != position:
                advance(raw.tell() - position)
                position = raw.tell()
            yield chunk
    yield b""


def _unpacked(raw: IO[bytes]) -> Iterator[bytes]:
    """The bytes of the members of a gzip file, at most READ_BYTES of them at once.

    Unlike the standard library, it yields everything before a truncated end, so that lines can be
    counted.

    Raises:
        EOFError: If the file ends within a member.
        zlib.error: If it is not a gzip file, or damaged.
    """
    packed = raw.read(_PACKED_BYTES)
    while packed:
        member = zlib.decompressobj(wbits=31)  # gzip's header and checksum
        while not member.eof:
            if not packed and not (packed := raw.read(_PACKED_BYTES)):
                raise EOFError("it ends within a member")
            if chunk := member.decompress(packed, READ_BYTES):
                yield chunk
            packed = member.unconsumed_tail
        # A member may be followed by zeros as padding.
        packed = member.unused_data.lstrip(b"\0")
        while not packed and (behind := raw.read(_PACKED_BYTES)):
            packed = behind.lstrip(b"\0")


def _zstandard_lines(path: Path) -> Iterator[bytes]:
    """The lines of a Zstandard file, unpacked by polars, about ten thousand at once.

    Raises:
        DataError: If it is not such a file, damaged, or not UTF-8.
    """
    import polars as pl

    try:
        for frame in pl.scan_lines(path, glob=False).collect_batches(chunk_size=2**14):
            if frame.height:
                yield "\n".join(frame["line"]).encode() + b"\n"
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise DataError(
            f"{path} must be a whole Zstandard file of text in UTF-8: {reason}; `zstd -d` unpacks "
            "what is written otherwise"
        ) from error


def _as_utf8(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Chunks of another encoding as UTF-8; everything before a wrong byte is yielded first.

    Raises:
        UnicodeError: If a byte is wrong; the message names it.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    for chunk in chunks:
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            yield error.object[: error.start].decode(encoding).encode()
            raise UnicodeError(f"byte 0x{error.object[error.start]:02x}") from error
        if text:
            yield text.encode()
    yield b""


def _check_text(path: Path, data: bytes, first_line: int) -> None:
    if data.isascii():
        return
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}, line {line}: the text is not UTF-8: byte 0x{data[error.start]:02x}"
        ) from error
