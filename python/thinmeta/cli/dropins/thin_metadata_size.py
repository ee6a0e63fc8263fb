"""``thin_metadata_size``: how large a pool's metadata should be, as the peer estimates it."""

from __future__ import annotations

from thinmeta.cli.dropins.options import Option
from thinmeta.cli.output import write_text
from thinmeta.errors import ThinmetaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_metadata_size -b SIZE -s SIZE -m COUNT [-u UNIT] [-n]

Estimates how large the metadata device of a thin pool should be. This is thinmeta's
stand-in for thin_metadata_size of thin-provisioning-tools, and gives the numbers of 1.x.

Options
  -b, --block-size SIZE  size of a data block, a multiple of 64 KiB up to 1 GiB
  -s, --pool-size SIZE   size of the data device
  -m, --max-thins COUNT  how many thin devices and snapshots there will be at most
  -u, --unit UNIT        unit of the answer, without this sectors
  -n, --numeric-only[=short|long]
                         print the number alone, or with its unit right behind it
  -h, --help             print this
  -V, --version          print the version of the peer whose output this is

A SIZE is a number of sectors, or one with a UNIT behind it: b (bytes), s (sectors of 512
bytes), k m g t p e z y (powers of 1024), K M G T P E Z Y (powers of 1000), or their names,
as in 64kibibytes.
"""

OPTIONS = (
    Option("--block-size", "-b", takes="a word"),
    Option("--pool-size", "-s", takes="a word"),
    Option("--max-thins", "-m", takes="a word"),
    Option("--unit", "-u", takes="a word"),
    Option("--numeric-only", "-n", takes="maybe", joined=("short", "long")),
)
WORDS = ()

#: Letters, bytes, and what the peer calls it: names of its own for two of them.
UNITS = (
    ("b", 1, "bytes"),
    ("s", 512, "sectors"),
    ("k", 1 << 10, "kibibytes"),
    ("K", 10**3, "kilobytes"),
    ("m", 1 << 20, "mebibytes"),
    ("M", 10**6, "megabytes"),
    ("g", 1 << 30, "gibibytes"),
    ("G", 10**9, "gigabytes"),
    ("t", 1 << 40, "terabytes"),
    ("T", 10**12, "terabytes"),
    ("p", 1 << 50, "pebibytes"),
    ("P", 10**15, "petabytes"),
    ("e", 1 << 60, "exbibytes"),
    ("E", 10**18, "exabytes"),
    ("z", 1 << 70, "zebibytes"),
    ("Z", 10**21, "zettabytes"),
    ("y", 1 << 80, "yobibytes"),
    ("Y", 10**24, "yottabytes"),
)
#: What else is understood: 1.x says kB and KiB, 0.9 calls the thing by parts of its name.
PREFIXES = {
    "k": "kibi",
    "m": "mebi",
    "g": "gibi",
    "t": "tebi",
    "p": "pebi",
    "e": "ebi",
    "z": "zebi",
    "y": "yobi",
    "K": "kilo",
    "M": "mega",
    "G": "giga",
    "T": "tera",
    "P": "peta",
    "E": "exa",
    "Z": "zetta",
    "Y": "yotta",
}
METADATA_BLOCK_BYTES = 4096
#: Mappings that are counted for each metadata block: a leaf that is half full.
MAPPINGS_PER_BLOCK = 126
MAX_METADATA_BLOCKS = 4161600
MIN_BLOCK, MAX_BLOCK = 1 << 16, 1 << 30


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    for name in ("block-size", "pool-size", "max-thins"):
        if not parsed.has(name):
            raise parsed.wrong(f"--{name} is missing")
    numeric = parsed.value("numeric-only")
    if numeric not in (None, "", "short", "long"):
        raise parsed.wrong(f"--numeric-only is short or long, not {numeric!r}")
    letter, factor, name = _unit(parsed, parsed.value("unit") or "s", "unit")
    block_bytes = _size(parsed, "block-size", 512)
    pool_bytes = _size(parsed, "pool-size", 512)
    thins = _size(parsed, "max-thins", 1)
    if block_bytes == 0 or block_bytes % MIN_BLOCK:
        raise ThinmetaError("thin_metadata_size: a data block has a multiple of 64 KiB")
    if block_bytes > MAX_BLOCK:
        raise ThinmetaError("thin_metadata_size: a data block has at most 1 GiB")
    if pool_bytes < block_bytes:
        raise ThinmetaError("thin_metadata_size: the pool has to be larger than a data block")
    answer = _written(
        estimated_blocks(block_bytes, pool_bytes, thins) * METADATA_BLOCK_BYTES, factor
    )
    tail = {None: f" {name}", "": "", "short": letter, "long": name}[numeric]
    write_text(f"{answer}{tail}\n")
    return 0


def estimated_blocks(block_bytes: int, pool_bytes: int, thins: int) -> int:
    """Metadata blocks: a superblock, one for each device, and the mappings' leaves."""
    leaves = -(-(pool_bytes // block_bytes) // MAPPINGS_PER_BLOCK)
    return min(1 + thins + leaves, MAX_METADATA_BLOCKS)


def _written(size_bytes: int, factor: int) -> str:
    """A size in a unit, with the digits that the peer gives it."""
    if size_bytes % factor == 0:
        return str(size_bytes // factor)
    value = size_bytes / factor
    if value >= 1:
        return f"{value:.2f}"
    return _shortest(value)


def _shortest(value: float) -> str:
    """The fewest digits that mean this number, and of two as near the larger one."""
    from decimal import ROUND_HALF_UP, Context, Decimal

    exact = Decimal(value)
    for digits in range(1, 18):
        written = Context(prec=digits, rounding=ROUND_HALF_UP).plus(exact)
        if float(written) == value:
            return f"{written:f}"
    return f"{exact:f}"


def _size(parsed: Parsed, name: str, factor: int) -> int:
    """An option's value in bytes, or as a number; ``factor`` is that of a bare number."""
    word = parsed.value(name) or ""
    digits = word[: len(word) - len(word.lstrip("0123456789"))]
    if not digits or not word.isascii():
        raise parsed.wrong(f"--{name} takes a number and a unit, as in 64k, not {word!r}")
    unit = word[len(digits) :]
    if unit:
        factor = _unit(parsed, unit, name)[1]
    size = int(digits) * factor if len(digits) <= 20 else 1 << 64
    if size >= 1 << 64:
        raise parsed.wrong(f"--{name} is too large: {word!r}")
    return size


def _unit(parsed: Parsed, word: str, name: str) -> tuple[str, int, str]:
    for unit in UNITS:
        if word in _names(unit[0]):
            return unit
    raise parsed.wrong(f"--{name}: there is no unit {word!r}: a letter is enough, as in k or G")


def _names(letter: str) -> tuple[str, ...]:
    if letter in "bs":
        name = "byte" if letter == "b" else "sector"
        return letter, name, f"{name}s"
    prefix = PREFIXES[letter]
    short = f"{letter.upper()}iB" if letter.islower() else f"{'k' if letter == 'K' else letter}B"
    names = (letter, short, prefix, f"{prefix}byte", f"{prefix}bytes")
    return (*names, "exbi", "exbibyte", "exbibytes") if letter == "e" else names
