"""``thinmeta live``: pools that the kernel has active."""

from __future__ import annotations

from thinmeta.cli.options import CHANGING, Option, did_you_mean, parse
from thinmeta.cli.output import write_text
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.options import Parsed

HELP = """\
Usage: thinmeta live status [--json] POOL
       thinmeta live snapshot [--suspend NAME] [--force] [-n] [--json] POOL NEW ORIGIN
       thinmeta live reserve [-n] [--json] POOL
       thinmeta live release [--stale] [-n] [--json] POOL
       thinmeta live kept [--json] POOL
       thinmeta live forget [--all] [-n] [--json] POOL [ID]...

Asks and tells a pool that the kernel has active, through the program dmsetup. POOL is
what device-mapper calls it, a device node of it, or VG/POOL for a pool of LVM. The
commands that read (ls, check, dump, delta, extract) take such a POOL in place of META,
and reserve and release the metadata snapshot themselves.

  status    how the pool is, and which of its volumes are active
  snapshot  make thin device NEW, a snapshot of thin device ORIGIN. An ORIGIN that is
            active has to stand still: name it with --suspend. On a pool of LVM, NEW and
            ORIGIN are names of volumes, and lvcreate does it.
  reserve   make the pool hold a metadata snapshot until it is released, whoever reads it
            meanwhile. While it is held, nothing that it refers to becomes free.
  release   release that one. One that another tool holds is not touched.
  kept      list the snapshots of volumes that 'send', 'replicate' and 'backup create'
            keep as the bases of their next runs, or have left behind: for which volume
            and purpose, since when, and whether they are still there
  forget    remove those with an ID, their number or LVM's name, and nothing else. The
            next run for their purpose reads the whole volume then; a backup goes on
            from the bookmark in its repository.

Options
      --suspend NAME     suspend the active volume NAME while the snapshot is made
      --force            on a pool of LVM, make the device by its number though LVM will
                         not know of it
      --stale            release only what a process that was killed has left behind; it
                         is no error if there is nothing
      --all              forget all that no process uses
  -n, --dry-run          say what would be done, and do nothing
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta live status vg/pool
  thinmeta live snapshot pool 7 1 --suspend home
  thinmeta live snapshot vg/pool home-monday home
  thinmeta live release --stale vg/pool
  thinmeta live kept vg/pool
"""

#: All of them, for those who look at what the page says.
OPTIONS = (
    Option("suspend", takes="a word"),
    Option("force"),
    Option("stale"),
    Option("all"),
)

_COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "status": (("POOL",), ()),
    "snapshot": (("POOL", "NEW", "ORIGIN"), ("suspend", "force")),
    "reserve": (("POOL",), ()),
    "release": (("POOL",), ("stale",)),
    "kept": (("POOL",), ()),
    "forget": (("POOL",), ("all",)),
}
#: What changes nothing, and needs no dry run.
_LOOKING = ("status", "kept")


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    command = arguments[0] if arguments else ""
    if command in ("--help", "-h"):
        write_text(HELP)
        return 0
    if command not in _COMMANDS:
        names = ", ".join(_COMMANDS)
        what = f"there is no {command!r}{did_you_mean(command, _COMMANDS)}" if command else ""
        raise UsageError(
            f"live: {what or 'a word is missing'}: {names}; see 'thinmeta live --help'"
        )
    words, options = _COMMANDS[command]
    common = CHANGING[:-1] if command in _LOOKING else CHANGING
    own = [option for option in OPTIONS if option.long in options]
    more = len(arguments) if command == "forget" else 0
    words = (*words, *("ID",) * more)
    parsed = parse(f"live {command}", arguments[1:], own, words, common=common, optional=more)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    return _do(command, parsed)


def _do(command: str, parsed: Parsed) -> int:
    from thinmeta.cli.signals import raise_on_termination

    # What is begun is brought to an end, and what was suspended goes on.
    raise_on_termination()
    if command == "status":
        from thinmeta.cli.live_status import show

        return show(parsed)
    from thinmeta.cli import live_change, live_kept

    change = {
        "kept": live_kept.kept,
        "forget": live_kept.forget,
        "snapshot": live_change.snapshot,
        "reserve": live_change.reserve,
        "release": live_change.release,
    }[command]
    return change(parsed)
