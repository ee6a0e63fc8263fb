"""``thinmeta ls``: the thin devices of a pool."""

from __future__ import annotations

from thinmeta.cli.options import Option, did_you_mean, parse
from thinmeta.cli.output import write_error, write_json, write_table, write_text
from thinmeta.cli.pools import find_source
from thinmeta.cli.progress import progress
from thinmeta.errors import UsageError
from thinmeta.report import human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.cli.pools import Source

HELP = """\
Usage: thinmeta ls [-o COLUMNS] [--bytes | --units UNIT] [--json] [-m] META
       thinmeta ls --if-deleted ID,ID... [OPTION]... META

Lists the thin devices (volumes and snapshots) of the pool whose metadata is META, a
device or an image of it, or of the live pool META ('thinmeta live --help').

Options
  -o, --output COLUMNS   what to show, separated by commas:
        dev           the device's id, the number by which the pool knows it
        mapped        how much of it has been written and takes up space
        exclusive     of that, what no other device uses: removing it frees this,
                      unless the pool holds a metadata snapshot that still refers to
                      it (a line on stderr says that it holds one)
        shared        of that, what other devices use as well
        highest       where what has been written ends: its last block, sector or byte;
                      in human units how far that is from the beginning
        transaction   the pool's transaction when it was created
        create_time   the pool's clock when it was created
        snap_time     the pool's clock at its last snapshot
                         without -o: dev,mapped,create_time,snap_time; -o all: all;
                         -o +shared: those and more. exclusive and shared have to
                         read all mappings, which takes longer in a large pool, and
                         highest some of each device.
      --if-deleted ID,ID...
                         say instead what would really become free if all of these were
                         deleted: what nobody else has, neither another device nor a
                         metadata snapshot that the pool holds. Of a live pool also by
                         their names.
  --units UNIT           show sizes as 'human' (12.5 MiB), 'bytes', 'sectors' (of 512
                         bytes) or 'blocks' (of the pool's data)
  --bytes                the same as --units bytes
  --json                 print JSON: everything but exclusive, shared and highest,
                         unless -o says otherwise
  -m, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one
                         at BLOCK
  -h, --help             print this

Examples
  thinmeta ls pool_tmeta.img
  thinmeta ls -o dev,mapped,exclusive --bytes vg/pool
"""

OPTIONS = (
    Option("output", "o", takes="a word"),
    Option("units", takes="a word"),
    Option("bytes"),
    Option("if-deleted", takes="a word"),
)
COLUMNS = (
    *("dev", "mapped", "exclusive", "shared", "highest"),
    *("transaction", "create_time", "snap_time"),
)
DEFAULT = ("dev", "mapped", "create_time", "snap_time")
DETAILS = ("dev", "mapped", "transaction", "create_time", "snap_time")
COUNTED = ("exclusive", "shared")
SIZES = ("mapped", *COUNTED)
METADATA_BLOCK_BYTES = 4096
SECTOR_BYTES = 512
UNITS = ("human", "bytes", "sectors", "blocks")
HELD = (
    "thinmeta: the pool holds a metadata snapshot: until it is released, removing a device "
    "frees nothing that the snapshot refers to\n"
)
KEYS = {
    "dev": "device_id",
    "transaction": "transaction_id",
    "create_time": "creation_time",
    "snap_time": "snapshotted_time",
}


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("ls", arguments, OPTIONS, ("META",))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    as_json = parsed.has("json")
    units = _units(parsed.value("units"), exact=parsed.has("bytes"))
    columns = _columns(parsed.values("output"), DETAILS if as_json else DEFAULT)
    source = find_source(parsed.words[0], parsed.metadata_snapshot())
    gone = parsed.value("if-deleted")
    if gone is not None:
        if parsed.has("output"):
            raise UsageError("ls: --if-deleted and --output exclude each other")
        ids = [source.device_number(word, "--if-deleted") for word in gone.split(",") if word]
        _print_freed(source, ids, units=None if as_json else units)
        return 0
    with source.reading() as pool:
        superblock = pool._superblock_fields()
        block_bytes = superblock["data_block_size"] * SECTOR_BYTES
        is_held = pool._metadata_snapshot_held()
        rows: list[dict[str, Any]]
        rows = [dict(zip(DETAILS, row, strict=True)) for row in pool._device_rows()]
        if "highest" in columns:
            last = dict(pool._last_mapped())
            for row in rows:
                row["highest"] = last[row["dev"]]
        if any(column in COUNTED for column in columns):
            with progress("reading all mappings") as report:
                counts = pool.exclusive_blocks(progress=report)
            for row in rows:
                row["exclusive"], row["shared"] = counts[row["dev"]]
            # One that we hold ourselves, for a moment, is not worth a word.
            if is_held and not source.reserves and "exclusive" in columns:
                write_error(HELD)
    if as_json:
        write_json(
            {
                "metadata": source.word,
                "metadata_snapshot": source.snapshot,
                "metadata_snapshot_held": is_held,
                "transaction_id": superblock["trans_id"],
                "time": superblock["time"],
                "needs_check": superblock["needs_check"],
                "data_block_size_bytes": block_bytes,
                "devices": [_json_row(row, columns, block_bytes) for row in rows],
            }
        )
        return 0
    heads = [column.upper() for column in columns]
    write_table(heads, [_text_row(row, columns, block_bytes, units) for row in rows])
    if not rows:
        write_error("thinmeta: the pool has no thin devices\n")
    return 0


def _print_freed(source: Source, ids: list[int], *, units: str | None) -> None:
    """Say what deleting these would free; as JSON without units."""
    if not ids:
        raise UsageError("ls: --if-deleted names no device")
    with source.reading() as pool, progress("reading all mappings") as report:
        block_bytes = pool._superblock_fields()["data_block_size"] * SECTOR_BYTES
        data, metadata = pool.freed_if_deleted(ids, progress=report)
        is_held = pool._metadata_snapshot_held()
    if units is None:
        write_json(
            {
                "metadata": source.word,
                "metadata_snapshot": source.snapshot,
                "metadata_snapshot_held": is_held,
                "deleted": ids,
                "freed_data_blocks": data,
                "freed_data_bytes": data * block_bytes,
                "freed_metadata_blocks": metadata,
                "freed_metadata_bytes": metadata * METADATA_BLOCK_BYTES,
            }
        )
        return
    sizes = [
        _size(blocks, size, units)
        for blocks, size in ((data, block_bytes), (metadata, METADATA_BLOCK_BYTES))
    ]
    write_text(f"free afterwards: {sizes[0]} of data, {sizes[1]} of metadata\n")
    if is_held and not source.reserves:
        write_error(HELD)


def _size(blocks: int, block_bytes: int, units: str) -> str:
    if units == "blocks":
        return str(blocks)
    size_bytes = blocks * block_bytes
    if units == "human":
        return human_bytes(size_bytes)
    return str(size_bytes // SECTOR_BYTES if units == "sectors" else size_bytes)


def _highest(block: int | None, block_bytes: int, units: str) -> str:
    """The end of a device's mappings: the last of the units in it, as the peers count."""
    if block is None:
        return "-"
    if units in ("human", "blocks"):
        return _size(block + (units == "human"), block_bytes, units)
    return str(int(_size(block + 1, block_bytes, units)) - 1)


def _units(word: str | None, *, exact: bool) -> str:
    units = word or ("bytes" if exact else "human")
    if units not in UNITS:
        raise UsageError(f"ls: --units is one of {', '.join(UNITS)}, not {units!r}")
    if exact and units != "bytes":
        raise UsageError(f"ls: --bytes and --units {units} exclude each other")
    return units


def _columns(words: list[str], default: tuple[str, ...]) -> list[str]:
    chosen: list[str] = []
    for word in words or [",".join(default)]:
        if word.startswith("+"):
            chosen += [column for column in default if column not in chosen]
            word = word[1:]
        for name in filter(None, word.lower().replace(" ", "").split(",")):
            if name != "all" and name not in COLUMNS:
                hint = did_you_mean(name, COLUMNS)
                raise UsageError(
                    f"ls: there is no column {name!r}{hint}; columns are {', '.join(COLUMNS)}"
                )
            names = COLUMNS if name == "all" else (name,)
            chosen += [column for column in names if column not in chosen]
    if not chosen:
        raise UsageError("ls: -o names no column")
    return chosen


def _json_row(row: dict[str, Any], columns: list[str], block_bytes: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for column in columns:
        value = row[column]
        if column == "highest":
            for unit in ("block", "sector", "byte"):
                word = _highest(value, block_bytes, f"{unit}s")
                result[f"highest_mapped_{unit}"] = None if value is None else int(word)
        elif column in SIZES:
            result[f"{column}_blocks"] = value
            result[f"{column}_sectors"] = value * (block_bytes // SECTOR_BYTES)
            result[f"{column}_bytes"] = value * block_bytes
        else:
            result[KEYS[column]] = value
    return result


def _text_row(row: dict[str, Any], columns: list[str], block_bytes: int, units: str) -> list[str]:
    cells = []
    for column in columns:
        value = row[column]
        if column == "highest":
            cells.append(_highest(value, block_bytes, units))
        elif column in SIZES:
            cells.append(_size(value, block_bytes, units))
        else:
            cells.append(str(value))
    return cells
