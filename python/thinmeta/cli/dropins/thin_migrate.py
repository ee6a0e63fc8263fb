"""``thin_migrate``: an active thin volume to a file or a device, read back and compared."""

from __future__ import annotations

import os
import stat

from thinmeta.cli.dropins.options import QUIET, Option
from thinmeta.cli.progress import progress
from thinmeta.errors import (
    DeviceInUseError,
    NoMetadataSnapshotError,
    ThinmetaError,
    UsageError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed
    from thinmeta.live import LivePool, LiveVolume
    from thinmeta.stream.targets import Target

HELP = """\
Usage: thin_migrate --source-dev DEVICE {--dest-dev DEVICE | --dest-file FILE} [OPTION]...

Copies an active thin volume, or what has changed in it, to another device or to a file.
This is thinmeta's stand-in for thin_migrate of thin-provisioning-tools; 'thinmeta
migrate' also takes volumes in use, images, and pools as destinations.

As 1.x has it, the volume has to be active and read-only, a snapshot for example, the
pool has to hold a metadata snapshot that shows it, and a device has to be as long as the
volume: nothing is sent to the pool. 'thinmeta migrate' makes what it needs, and removes
it. Other than 1.1.0, it makes zero, or a hole, of what is not mapped, reads the copy back
and compares it, and goes on with what was interrupted.

Options
      --source-dev DEVICE    the thin volume
      --dest-dev DEVICE      a block device, which is overwritten
      --dest-file FILE       a file, which is replaced if it is there
      --delta-id ID          copy only what has changed since thin device ID of the same
                             pool, a snapshot that the destination holds (1.1.0 ends with
                             an error of its own)
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
    from thinmeta.cli.signals import raise_on_termination
    from thinmeta.migrating.apart import check_apart
    from thinmeta.migrating.work import BUFFER_BYTES, migrate
    from thinmeta.source import ImageGeneration

    base = parsed.number("delta-id", _MAX_DEVICE_ID)
    megabytes = parsed.number("buffer-size-meg", _MAX_BUFFER_MEG)
    source = parsed.value("source-dev")
    if source is None:
        # The peer does not call this wrong usage, which shows in its exit status.
        raise ThinmetaError("thin_migrate: --source-dev is missing")
    target = _target(parsed)
    live, volume = _source(source)
    if megabytes == 0:
        raise ThinmetaError("thin_migrate: --buffer-size-meg: the buffers cannot be empty")
    if live.status().held_root is None:
        words = f"it holds no metadata snapshot; 'thinmeta live reserve {live.name}' makes one, "
        raise NoMetadataSnapshotError(live.path, words + "and 'thinmeta migrate' needs none")
    check_apart([volume.path, live.metadata_path, live.data_path, live.path], target.paths)
    if parsed.has("dest-dev"):
        _check_length(target, volume)
    raise_on_termination()
    # There is no option for it: what nobody knows of the destination is believed, and then
    # all of the volume is compared.
    forces = base is not None and target.peek().held is None
    with (
        live.metadata_snapshot(adopt=True) as pool,
        ImageGeneration(
            pool,
            volume.device_id,
            size_bytes=volume.size_bytes,
            external_origin=volume.external_origin,
            pool_uuid=live.uuid,
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
    from thinmeta.stream.targets import DeviceTarget, open_target

    device, file = parsed.value("dest-dev"), parsed.value("dest-file")
    if device is not None:
        return DeviceTarget(device)
    if file is None:
        raise ThinmetaError("thin_migrate: --dest-dev or --dest-file is missing")
    return open_target(file)


def _check_length(target: Target, volume: LiveVolume) -> None:
    """Refuse a device of another length, as the peer does.

    Raises:
        UsageError: It is longer or shorter than the volume.
        OSError: It cannot be opened.
    """
    descriptor = os.open(target.name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        length = os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
    if length != volume.size_bytes:
        raise UsageError(
            f"{target.name} has {length} bytes, and the volume {volume.size_bytes}: 'thinmeta "
            "migrate' takes longer devices, too"
        )


def _source(path: str) -> tuple[LivePool, LiveVolume]:
    """The pool of an active thin volume that nobody can write to, and the volume.

    Raises:
        UsageError: It is something else.
        DeviceInUseError: It can be written to.
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
    info = dmsetup.info(f":{number}")
    lines = dmsetup.table(info.name).splitlines()
    if len(lines) != 1 or lines[0].split()[2:3] != ["thin"]:
        raise UsageError(words)
    thin = parse_thin_table(info.name, lines[0])
    live = live_pool(node_of(thin.pool))
    for volume in live.volumes():
        if volume.name == info.name:
            if volume.read_only:
                return live, volume
            raise DeviceInUseError(
                path,
                "it can be written to while it is copied; give a snapshot of it that is active "
                "and read-only, or use 'thinmeta migrate', which makes one",
            )
    raise UsageError(words)
