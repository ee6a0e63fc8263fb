"""``thinmeta backup create``: a new generation of a volume."""

from __future__ import annotations

import os
import stat

from thinmeta.cli.backup_events import COMMON, Reporter
from thinmeta.cli.backup_key import open_repository
from thinmeta.cli.generations import open_generation
from thinmeta.cli.options import Option, parse, size
from thinmeta.cli.output import write_error, write_text
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import UsageError
from thinmeta.report import human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.backup import Repository, StoredGeneration
    from thinmeta.cli.options import Parsed
    from thinmeta.source import Generation

HELP = """\
Usage: thinmeta backup create [OPTION]... REPO POOL ID [--data DATA]

Backs up thin device ID of POOL: the pool's metadata, whose data is DATA, devices or images
of them. Or POOL is a live pool, where ID may be a name, too: a snapshot is made and read
then, and stays until the next backup.

Only what may have changed since an earlier generation is read. What has not is proven by
the snapshot which that generation was made of, if it is still in the pool and nobody has
written to it; or by its bookmark, which is saved with every generation of such a snapshot.
So of a pool's images it is best to back up a snapshot: of a volume that was written since it
was made, nothing proves later what is unchanged, and everything that is mapped is read.

Earlier generations are those of the same pool, known by its uuid, or else by its metadata
device or the very file; with --volume, those of that name.

Options
      --data DATA        the pool's data device, or an image of it
      --volume NAME      what the volume is called in REPO; of a live pool it has the name that
                         it has there, if it is not given another one
      --base GENERATION  make it from that one, and no other; also if the pool's files were
                         copied or moved meanwhile: that it is the same pool is on you
      --full             read everything that is mapped; what is there is not stored again
      --size BYTES       the size of the volume, also as 512M, 10GiB or 20971520s
                         (sectors). A pool does not know how large its volumes are (LVM
                         does: lvs --units b); without --size the end of the last block
                         written is taken.
      --external-origin FILE
                         what shows through where nothing was written, for volumes that
                         were made as snapshots of something outside the pool. It is not
                         backed up.
      --flatten          back up all of what --external-origin shows
      --level N          of zstd, -7 to 22; 1 if it is not given
      --no-keep-snapshot
                         of a live pool: remove the snapshot that was made to be read. It stays
                         otherwise, as what proves later what is unchanged, until the next
                         backup; the bookmark does that without taking up space in the pool.
      --wait SECONDS     how long to wait for a prune that deletes; 60 if it is not given
  -n, --dry-run          say what would be read, and do nothing; a live pool is looked at as of
                         its last commit
      --key-file FILE, --key-command COMMAND
                         the key of an encrypted repository: in FILE, or printed by COMMAND
      --json             print events, a line of JSON each
  -v, --verbose          say more
  -h, --help             print this

Examples
  thinmeta backup create /backup/web pool_tmeta.img 2 --data pool_tdata.img
  thinmeta backup create s3://backups/web vg/pool home-monday --volume home
"""

OPTIONS = (
    Option("data", takes="a word"),
    Option("volume", takes="a word"),
    Option("base", takes="a word"),
    Option("full"),
    Option("size", takes="a word"),
    Option("external-origin", takes="a word"),
    Option("flatten"),
    Option("level", takes="a word"),
    Option("wait", takes="a word"),
    Option("no-keep-snapshot"),
    Option("dry-run", "n"),
)
#: Of a path so much is kept in a generation.
_PATH_CHARACTERS = 100


def run_create(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("backup create", arguments, OPTIONS, ("REPO", "POOL", "ID"), common=COMMON)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    given = parsed.value("size")
    level, wait = _number(parsed, "level", 1), _number(parsed, "wait", 60)
    base, full = parsed.value("base"), parsed.has("full")
    if base is not None and full:
        raise UsageError("backup create: --base and --full: one of them")
    raise_on_termination()
    _, pool, volume = parsed.words
    reporter = Reporter(parsed, "create")
    with reporter.logging():
        repository = open_repository(parsed)
        with open_generation(
            "backup create",
            pool,
            volume,
            data=parsed.value("data"),
            size_bytes=None if given is None else size(given, "--size"),
            external_origin=parsed.value("external-origin"),
            flatten=parsed.has("flatten"),
            purpose=repository.id,
            look=parsed.has("dry-run"),
        ) as generation:
            options: dict[str, Any] = {
                "volume": parsed.value("volume") or generation.volume_name,
                "pool": _evidence(pool, parsed.value("data")),
                "base": base,
                "full": full,
            }
            if parsed.has("dry-run"):
                _look(repository, generation, reporter, options)
                return 0
            with reporter.progress("backing up") as shown:
                made = repository.create(
                    generation, **options, level=level, wait_seconds=wait, progress=shown
                )
            if not parsed.has("no-keep-snapshot"):
                generation.keep()
    _tell(reporter, made, parsed)
    return 0


def _number(parsed: Parsed, name: str, default: int) -> int:
    word = parsed.value(name)
    if word is None:
        return default
    try:
        return int(word)
    except ValueError as error:
        raise UsageError(f"--{name} must be a number, not {word!r}") from error


def _look(
    repository: Repository, generation: Generation, reporter: Reporter, options: dict[str, Any]
) -> None:
    outlook = repository.outlook(generation, **options)
    read = human_bytes(outlook.read_bytes)
    since = f"since {outlook.base}" if outlook.base else "everything that is mapped"
    reporter.done(
        f"would read {read} of {human_bytes(outlook.size_bytes)}: {since}\n",
        dry_run=True,
        base=outlook.base,
        size_bytes=outlook.size_bytes,
        read_bytes=outlook.read_bytes,
    )


def _tell(reporter: Reporter, made: StoredGeneration, parsed: Parsed) -> None:
    since = f" since generation {int(made.base[:8])}" if made.base else ""
    if not made.identity.size_is_known and not parsed.has("json"):
        write_error(
            f"thinmeta: the size, {human_bytes(made.size_bytes)} ({made.size_bytes} bytes), was "
            "guessed from the last block written; --size gives the real one\n"
        )
    if made.bookmark is None and not parsed.has("json"):
        write_error(
            "thinmeta: no snapshot, or one that was written: the next backup cannot build on this\n"
        )
    reporter.done(
        f"{made.name}: {human_bytes(made.read_bytes)} read{since}, "
        f"{human_bytes(made.stored_bytes)} new, {human_bytes(made.packed_bytes)} stored\n",
        dry_run=False,
        **summary(made),
    )


def summary(made: StoredGeneration) -> dict[str, Any]:
    """A generation as JSON, without the list of its segments."""
    facts = made.to_json()
    del facts["version"], facts["segments"]
    return {**facts, "size_bytes": made.size_bytes, "data_bytes": made.data_bytes}


def _evidence(pool: str, data: str | None) -> str:
    """What a pool is known by: metadata and data, if it has two images."""
    found = pool_evidence(pool)
    if data is None or not found:
        return found
    content = pool_evidence(data)
    if not content:
        return ""
    from hashlib import sha256

    # Metadata may be copied to one place again and again: the data tell which pool it is.
    key = sha256(content.encode()).hexdigest()[:32]
    return _printable(f"{found[-_PATH_CHARACTERS:]} data {key}")


def pool_evidence(path: str) -> str:
    """What a pool without a uuid is known by: its device, or the very file; may be empty.

    A file is known by when its inode was made, besides its path: another pool in a new file
    of the same name is another pool. Copied files are, too, as nothing else tells them apart.
    """
    try:
        found = os.stat(path)
    except OSError:
        from thinmeta.live import live_pool

        live = live_pool(path)  # it has been opened before
        return "" if live.uuid else pool_evidence(live.metadata_path)
    if stat.S_ISBLK(found.st_mode):
        from thinmeta.stream.targets.device import device_name

        name = device_name(f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
        if name.startswith("number-"):
            return ""  # disks change their numbers
        return _printable(f"device {name}")
    from thinmeta.cli.birth import birth_ns

    born = birth_ns(path)
    if not born:
        return ""
    return _printable(f"{os.path.realpath(path)[-_PATH_CHARACTERS:]} #{found.st_ino} @{born}")


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[-2 * _PATH_CHARACTERS :]
