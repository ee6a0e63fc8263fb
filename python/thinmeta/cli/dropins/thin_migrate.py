"""``thin_migrate``: an active thin volume to a file or a device, read back and compared."""

from __future__ import annotations

import os
import stat

from thinmeta.cli.dropins.options import QUIET, Option
from thinmeta.cli.progress import progress
from thinmeta.errors import ThinmetaError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed
    from thinmeta.live import LivePool
    from thinmeta.stream.targets import Target

HELP = """\
Usage: thin_migrate --source-dev DEVICE {--dest-dev DEVICE | --dest-file FILE} [OPTION]...

Copies an active thin volume, or what has changed in it, to another device or to a file.
This is thinmeta's stand-in for thin_migrate of thin-provisioning-tools; 'thinmeta
migrate' also takes volumes that are not active, images, and pools as destinations.

A snapshot of the volume is made and read, and removed in the end, so that the volume may
be in use. The copy is read back and compared, and what was interrupted is gone on with by
the next call. What is not mapped is zero, or a hole, in the destination.

Options
      --source-dev DEVICE    the thin volume
      --dest-dev DEVICE      a block device, which is overwritten
      --dest-file FILE       a file, which is replaced if it is there
      --delta-id ID          copy only what has changed since thin device ID of the same
                             pool, a snapshot that the destination holds (1.1.0 ends with
                             an error)
      --zero-dest            what is not mapped is zero in the destination: it always is
      --buffer-size-meg MB   for content that was read and not written yet
  -q, --quiet                print nothing, also of errors
  -h, --help                 print this
  -V, --version              print the version of the peer that this stands for
"""

OPTIONS = (
    QUIET,
    Option("--source-dev", takes="a word"),
    Option("--dest-dev", takes="a word"),
    Option("--dest-file", takes="a word"),
    Option("--delta-id", takes="a word"),
    Option("--zero-dest"),
    Option("--buffer-size-meg", takes="a word"),
)
WORDS: tuple[str, ...] = ()
_MAX_DEVICE_ID = (1 << 24) - 1
_MAX_BUFFER_MEG = 1 << 20


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    from thinmeta.cli.migrating import live_generation, purpose_of
    from thinmeta.cli.signals import raise_on_termination
    from thinmeta.migrating.work import BUFFER_BYTES, migrate

    base = parsed.number("delta-id", _MAX_DEVICE_ID)
    megabytes = parsed.number("buffer-size-meg", _MAX_BUFFER_MEG)
    source = parsed.value("source-dev")
    if source is None:
        # The peer does not call this wrong usage, which shows in its exit status.
        raise ThinmetaError("thin_migrate: --source-dev is missing")
    target = _target(parsed)
    live, device_id = _source(source)
    raise_on_termination()
    # There is no option for it: what nobody knows of the destination is believed, and then
    # all of the volume is compared.
    forces = base is not None and target.peek().held is None
    with (
        live_generation(
            live,
            device_id,
            target,
            purpose=purpose_of("migrate", target),
            force_base=forces,
        ) as generation,
        progress("migrating", in_bytes=True, quiet=parsed.has("quiet")) as report,
    ):
        migrate(
            generation,
            target,
            base=base,
            overwrite=True,
            force_base=forces,
            verify="all" if forces else "copied",
            buffer_bytes=BUFFER_BYTES if megabytes is None else megabytes << 20,
            progress=report,
        )
    return 0


def _target(parsed: Parsed) -> Target:
    from thinmeta.stream.targets import DeviceTarget, FileTarget

    device, file = parsed.value("dest-dev"), parsed.value("dest-file")
    if device is not None:
        return DeviceTarget(device)
    if file is None:
        raise ThinmetaError("thin_migrate: --dest-dev or --dest-file is missing")
    return FileTarget(file)


def _source(path: str) -> tuple[LivePool, int]:
    """The pool of an active thin volume, and its number there.

    Raises:
        UsageError: It is something else.
        LivePoolError: Device-mapper does not say.
        OSError: It is not there.
    """
    from thinmeta.live import dmsetup, live_pool
    from thinmeta.live.nodes import node_of
    from thinmeta.live.status import parse_thin_table

    found = os.stat(path)
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    words = f"{path} is no active thin volume: 'thinmeta migrate' takes others, and images"
    if not stat.S_ISBLK(found.st_mode) or not os.path.exists(f"/sys/dev/block/{number}/dm"):
        raise UsageError(words)
    name = dmsetup.info(f":{number}").name
    lines = dmsetup.table(name).splitlines()
    if len(lines) != 1 or lines[0].split()[2:3] != ["thin"]:
        raise UsageError(words)
    thin = parse_thin_table(name, lines[0])
    return live_pool(node_of(thin.pool)), thin.device_id
