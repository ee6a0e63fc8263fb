#!/usr/bin/env python3
"""Ask a pool questions with a data frame: where its blocks lie, and what has changed.

    to_polars.py METADATA OLD NEW        (needs: pip install polars)

Results go into polars whole, through the Arrow interface; no row passes through
Python. pyarrow, pandas and duckdb take them the same way.
"""

import sys

import polars as pl

import thinmeta


def fragmentation(pool: thinmeta.Pool) -> pl.DataFrame:
    """For each volume: how many blocks it has, in how many pieces of the data."""
    frames = [
        pl.DataFrame(device.mappings()).select(
            device=pl.lit(device.id),
            blocks=pl.len(),
            pieces=(pl.col("data_block").cast(pl.Int64).diff().fill_null(0) != 1).sum(),
            newest=pl.col("time").max(),
        )
        for device in pool.devices.values()
    ]
    return pl.concat(frames)


def changes(pool: thinmeta.Pool, old: int, new: int) -> pl.DataFrame:
    """How much differs between two volumes, by the kind of difference."""
    return (
        pl.DataFrame(pool.delta(old, new, same=True))
        .group_by(pl.col("kind").cast(pl.String))
        .agg(ranges=pl.len(), bytes=pl.col("length_bytes").sum())
        .sort("kind")
    )


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    with thinmeta.open_pool(sys.argv[1]) as pool:
        print(fragmentation(pool))
        print(changes(pool, int(sys.argv[2]), int(sys.argv[3])))


if __name__ == "__main__":
    main()
