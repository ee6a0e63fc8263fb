#!/usr/bin/env python3
"""Bring a full copy of a volume up to date by copying only what has changed.

    incremental_backup.py METADATA DATA OLD NEW COPY [--size BYTES]

COPY is a raw image with the content of device OLD, a snapshot kept since the last
backup. Afterwards it has the content of device NEW. What has changed is in the
metadata; of the data only the changed ranges are read.
"""

import argparse
from pathlib import Path

import thinmeta

CHUNK_BYTES = 1 << 20


def update(
    metadata: Path, data: Path, old: int, new: int, copy: Path, size_bytes: int | None = None
) -> int:
    """Update the copy and return how many bytes were written to it."""
    written = 0
    with thinmeta.open_pool(metadata, data=data) as pool, copy.open("r+b") as out:
        with pool.devices[new].open(size_bytes=size_bytes) as volume:
            out.truncate(volume.size_bytes)
            # A real backup would keep the list: it is small, and it is the increment.
            for change in pool.delta(old, new):
                begin = change.begin_bytes
                end = min(begin + change.length_bytes, volume.size_bytes)
                # "left_only" was discarded since: the volume reads as zeros there, which
                # is what the copy has to hold. (A sparse copy would punch a hole.)
                volume.seek(begin)
                out.seek(begin)
                while begin < end:
                    piece = volume.read(min(CHUNK_BYTES, end - begin))
                    begin += out.write(piece)
                    written += len(piece)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metadata", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("old", type=int)
    parser.add_argument("new", type=int)
    parser.add_argument("copy", type=Path)
    parser.add_argument("--size", type=int, help="the volume's size in bytes")
    args = parser.parse_args()
    written = update(args.metadata, args.data, args.old, args.new, args.copy, args.size)
    print(f"{written} bytes of {args.copy.stat().st_size} had changed and were copied")


if __name__ == "__main__":
    main()
