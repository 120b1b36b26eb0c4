"""Lines of a plain or compressed file, in bounded memory: what a stranger packed may be a bomb, cut short, or no archive.

What a line holds is the affair of corpus.py.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

MAX_LINE_BYTES = 1 << 24
MAX_EXPANSION = 100  # text is packed to a tenth, rarely to less than a fiftieth
BLOCK_BYTES = 1 << 20
ZSTD_BLOCK_BYTES = 1 << 9  # four bytes may stand for 128 KiB: a block gives no more than a longest line


def of(path: Path) -> Iterator[bytes]:
    """Lines of a file without their ends; `.gz` and `.zst`, also of several parts, are unpacked on the way.

    Raises:
        ValueError: the file is damaged or cut short, a line is too long, or it unpacks to more than text can.
    """
    pieces, size = [], 0
    for block in _within_limit(_blocks(path), path):
        *ends, last = block.split(b"\n")
        for end in ends:
            yield b"".join([*pieces, end])
            pieces, size = [], 0
        pieces.append(last)
        size += len(last)
        if size > MAX_LINE_BYTES:
            raise ValueError(f"{path} has a line of more than {MAX_LINE_BYTES} bytes; split it or leave it out")
    if size:
        yield b"".join(pieces)


def expansion_limit(path: Path) -> int:
    """Bytes that a packed file may unpack to before it is taken for a bomb."""
    return max(MAX_LINE_BYTES, MAX_EXPANSION * path.stat().st_size)


def _within_limit(blocks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    limit, total = expansion_limit(path), 0
    try:
        for block in blocks:
            total += len(block)
            if total > limit:
                raise ValueError(f"{path} unpacks to more than {limit} bytes, as no text does; leave it out")
            yield block
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error


def _blocks(path: Path) -> Iterator[bytes]:
    match path.suffix:
        case ".zst":
            return _zstd_blocks(path)
        case ".gz":
            return _read_blocks(gzip.open, path)
        case _:
            return _read_blocks(open, path)


def _read_blocks(opening, path: Path) -> Iterator[bytes]:
    with opening(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    """The library's own stream reader takes a frame that was cut off for one that ended."""
    frame = None
    with path.open("rb") as file:
        while packed := file.read(ZSTD_BLOCK_BYTES):
            while packed:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(packed)
                packed, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("the last frame has no end")
