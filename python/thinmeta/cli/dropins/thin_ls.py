"""``thin_ls``: the thin devices of a pool, as the peer lists them."""

from __future__ import annotations

from thinmeta.cli.dropins.options import SNAPSHOT, Option
from thinmeta.cli.options import did_you_mean
from thinmeta.cli.output import write_text
from thinmeta.cli.progress import progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed
    from thinmeta.pool import Pool

HELP = """\
Usage: thin_ls [-m] [--no-headers] [-o FIELDS] META

Lists the thin devices of the pool whose metadata is META, a device or an image of it.
This is thinmeta's stand-in for thin_ls of thin-provisioning-tools; 'thinmeta ls' prints
JSON and takes the names of live pools as well.

Options
  -o, --format FIELDS    what to show, separated by commas:
        DEV TRANSACTION CREATE_TIME SNAP_TIME
        MAPPED EXCLUSIVE SHARED HIGHEST_MAPPED       in the unit that suits
        MAPPED_BLOCKS EXCLUSIVE_BLOCKS SHARED_BLOCKS HIGHEST_BLOCK
        MAPPED_SECTORS EXCLUSIVE_SECTORS SHARED_SECTORS HIGHEST_SECTOR
        MAPPED_BYTES EXCLUSIVE_BYTES SHARED_BYTES HIGHEST_BYTE
                         without -o: DEV,MAPPED,CREATE_TIME,SNAP_TIME
      --no-headers       leave the first line out
  -m, --metadata-snap, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one at
                         BLOCK (also -mBLOCK); works while the pool is in use
  -h, --help             print this
  -V, --version          print the version of the peer whose output this is
"""

OPTIONS = (SNAPSHOT, Option("--format", "-o", takes="a word"), Option("--no-headers"))
WORDS = ("META",)

DEFAULT = "DEV,MAPPED,CREATE_TIME,SNAP_TIME"
#: What the details of a device have, and where.
DETAILS = {"DEV": 0, "TRANSACTION": 2, "CREATE_TIME": 3, "SNAP_TIME": 4}
#: What takes a look at all mappings.
COUNTED = ("MAPPED", "EXCLUSIVE", "SHARED")
COUNTED_FIELDS = tuple(
    f"{name}{unit}" for unit in ("", "_BLOCKS", "_SECTORS", "_BYTES") for name in COUNTED
)
HIGHEST_FIELDS = ("HIGHEST_MAPPED", "HIGHEST_BLOCK", "HIGHEST_SECTOR", "HIGHEST_BYTE")
FIELDS = (*DETAILS, *COUNTED_FIELDS, *HIGHEST_FIELDS)
UNITS = ("b", "KiB", "MiB", "GiB", "Tib", "PiB", "EiB")
SECTOR_BYTES = 512


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    fields = _fields(parsed)
    with parsed.open_pool() as pool:
        pool._same_devices()
        columns = _columns(pool, fields)
    lines = [] if parsed.has("no-headers") else [tuple(fields)]
    lines += zip(*columns, strict=True)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    form = "".join([f"%{width}s " for width in widths]) + "\n"
    write_text("".join([form % line for line in lines]))
    return 0


def _fields(parsed: Parsed) -> list[str]:
    word = parsed.value("format")
    fields = (DEFAULT if word is None else word).split(",")
    for field in fields:
        if field not in FIELDS:
            raise parsed.wrong(f"there is no field {field!r}{did_you_mean(field.upper(), FIELDS)}")
    return fields


def _columns(pool: Pool, fields: list[str]) -> list[list[str]]:
    """The cells of each field, in the order of the devices."""
    rows = pool._device_rows()
    block_bytes: int = pool._superblock_fields()["data_block_size"] * SECTOR_BYTES
    sizes: dict[str, list[int]] = {}
    if any(field in COUNTED_FIELDS for field in fields):
        with progress("reading all mappings") as report:
            counts = pool.exclusive_blocks(progress=report)
        pairs = [counts[row[0]] for row in rows]
        # What a device says that it has mapped may be wrong.
        sizes["MAPPED"] = [exclusive + shared for exclusive, shared in pairs]
        sizes["EXCLUSIVE"] = [exclusive for exclusive, _ in pairs]
        sizes["SHARED"] = [shared for _, shared in pairs]
    if any(field in HIGHEST_FIELDS for field in fields):
        # The peer shows a device without mappings as if its first block were mapped.
        sizes["HIGHEST"] = [block or 0 for _, block in pool._last_mapped()]
    columns = []
    for field in fields:
        if field in DETAILS:
            columns.append([str(row[DETAILS[field]]) for row in rows])
            continue
        name, _, unit = field.partition("_")
        columns.append(_sizes(sizes[name], unit, block_bytes, highest=name == "HIGHEST"))
    return columns


def _sizes(blocks: list[int], unit: str, block_bytes: int, *, highest: bool) -> list[str]:
    """Numbers of blocks in a unit; of a highest block, its last sector or byte."""
    if unit in ("BLOCKS", "BLOCK"):
        return list(map(str, blocks))
    size = block_bytes // SECTOR_BYTES if unit in ("SECTORS", "SECTOR") else block_bytes
    sizes = [(block + 1) * size - 1 if highest else block * size for block in blocks]
    return list(map(_human if unit in ("", "MAPPED") else str, sizes))


def _human(size_bytes: int) -> str:
    """A size as the peer writes it, down to the spelling of its units."""
    unit, shown = 0, size_bytes
    while shown > 8192:
        shown //= 1024
        unit += 1
    # Rounded to the nearest below 1024 of a unit, and down from there on.
    if unit and shown < 1024 and size_bytes >> (10 * unit - 1) & 1:
        shown += 1
    return f"{shown}{UNITS[unit]}"
