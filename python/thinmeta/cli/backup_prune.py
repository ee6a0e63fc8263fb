"""``thinmeta backup prune``: deleting generations, and what only they needed."""

from __future__ import annotations

from thinmeta.cli.backup_events import COMMON, Reporter
from thinmeta.cli.backup_key import open_repository
from thinmeta.cli.options import Option, parse, whole_number
from thinmeta.cli.output import write_text
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes

HELP = """\
Usage: thinmeta backup prune [OPTION]... REPO --keep-last N

Keeps the last N generations of each volume, and deletes the others and what only they needed.
Every generation that stays can be restored afterwards as before.

Of one volume are the generations with one name (--volume of 'create'); without a name, those
of one device of one pool, and those that were made from one another.

It may run beside a backup, or be killed at any moment: nothing that a generation needs is
deleted. If a backup is being made, nothing is deleted at all.

Options
      --keep-last N      how many generations of each volume stay, at least 1
      --keep GENERATION  keep this one besides; may be given more than once
      --volume NAME      only delete generations of that volume
      --drop-damaged     delete generations that cannot be restored in full, too; without
                         it, nothing is deleted while there are any
  -n, --dry-run          say what would be deleted, and delete nothing
      --key-file FILE, --key-command COMMAND
                         the key of an encrypted repository: in FILE, or printed by COMMAND
      --json             print events, a line of JSON each
  -v, --verbose          say more
  -h, --help             print this

Examples
  thinmeta backup prune /backup/web --keep-last 7 --dry-run
  thinmeta backup prune /backup/web --keep-last 7 --keep 1
"""

OPTIONS = (
    Option("keep-last", takes="a word"),
    Option("keep", takes="a word"),
    Option("volume", takes="a word"),
    Option("drop-damaged"),
    Option("dry-run", "n"),
)


def run_prune(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("backup prune", arguments, OPTIONS, ("REPO",), common=COMMON)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    last = parsed.value("keep-last")
    if last is None:
        raise UsageError(
            "backup prune: --keep-last is missing: how many generations stay; see 'thinmeta "
            "backup prune --help'"
        )
    keep_last = whole_number(last, "--keep-last")
    if keep_last < 1:
        raise UsageError("backup prune: --keep-last has to be at least 1")
    raise_on_termination()
    reporter = Reporter(parsed, "prune")
    with reporter.logging():
        repository = open_repository(parsed)
        with reporter.progress("writing anew") as shown:
            report = repository.prune(
                keep_last=keep_last,
                keep=parsed.values("keep"),
                volume=parsed.value("volume"),
                drop_damaged=parsed.has("drop-damaged"),
                dry_run=parsed.has("dry-run"),
                progress=shown,
            )
    verb = "would delete" if report.dry_run else "deleted"
    freed = "to be freed" if report.dry_run else "freed"
    text = f"{verb} {count(len(report.deleted), 'generation')}, {len(report.kept)} stay; "
    text += f"{human_bytes(max(report.freed_bytes, 0))} {freed}"
    if report.repacked_bytes:
        text += f", {human_bytes(report.repacked_bytes)} written anew"
    reporter.done(
        text + "\n",
        dry_run=report.dry_run,
        kept=report.kept,
        deleted=report.deleted,
        freed_bytes=report.freed_bytes,
        repacked_bytes=report.repacked_bytes,
        deleted_objects=report.deleted_objects,
    )
    return 0
