"""``thinmeta backup prune``: deleting generations, and what only they needed."""

from __future__ import annotations

from thinmeta.cli.backup_events import COMMON, Reporter
from thinmeta.cli.backup_key import open_repository
from thinmeta.cli.options import Option, parse, whole_number
from thinmeta.cli.output import write_table, write_text
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.backup import PruneReport, Repository
    from thinmeta.cli.options import Parsed

HELP = """\
Usage: thinmeta backup prune [OPTION]... REPO --keep-RULE N [--keep-RULE N]...

Keeps the generations of each volume that the rules name, and deletes the others and what only
they needed. Every generation that stays can be restored afterwards as before.

Each rule is for itself, and what one of them keeps stays. Days, weeks (from Monday on) and
months are those of UTC; only such count in which there is a generation, and the newest in it
is the one that stays.

Of one volume are the generations with one name (--volume of 'create'); without a name, those
of one device of one pool, and those that were made from one another.

It may run beside a backup, or be killed at any moment: nothing that a generation needs is
deleted. If a backup is being made, nothing is deleted at all.

Options
      --keep-last N      the newest N generations of each volume stay
      --keep-daily N     the newest of each of the latest N days
      --keep-weekly N    the newest of each of the latest N weeks
      --keep-monthly N   the newest of each of the latest N months
      --keep GENERATION  keep this one besides; may be given more than once
      --volume NAME      only delete generations of that volume
      --drop-damaged     delete generations that cannot be restored in full, too; without
                         it, nothing is deleted while there are any
  -n, --dry-run          show what would stay, by which rule, and what would be deleted; delete
                         nothing
      --key-file FILE, --key-command COMMAND
                         the key of an encrypted repository: in FILE, or printed by COMMAND
      --json             print events, a line of JSON each
  -v, --verbose          say more
  -h, --help             print this

Examples
  thinmeta backup prune /backup/web --keep-last 7 --keep 1
  thinmeta backup prune /backup/web --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
"""

RULES = ("last", "daily", "weekly", "monthly")
OPTIONS = (
    *(Option(f"keep-{rule}", takes="a word") for rule in RULES),
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
    rules = {f"keep_{rule}": _number(parsed, f"keep-{rule}") for rule in RULES}
    if not any(rules.values()):
        raise UsageError(
            "backup prune: what stays? --keep-last, --keep-daily, --keep-weekly or --keep-monthly "
            "has to be at least 1; see 'thinmeta backup prune --help'"
        )
    raise_on_termination()
    reporter = Reporter(parsed, "prune")
    with reporter.logging():
        repository = open_repository(parsed)
        with reporter.progress("writing anew") as shown:
            report = repository.prune(
                **rules,
                keep=parsed.values("keep"),
                volume=parsed.value("volume"),
                drop_damaged=parsed.has("drop-damaged"),
                dry_run=parsed.has("dry-run"),
                progress=shown,
            )
    if report.dry_run and not parsed.has("json"):
        _show(report, repository)
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
        reasons=report.reasons,
        deleted=report.deleted,
        freed_bytes=report.freed_bytes,
        repacked_bytes=report.repacked_bytes,
        deleted_objects=report.deleted_objects,
    )
    return 0


def _number(parsed: Parsed, name: str) -> int:
    word = parsed.value(name)
    return 0 if word is None else whole_number(word, f"--{name}")


def _show(report: PruneReport, repository: Repository) -> None:
    """What would stay and what would go, the oldest first."""
    stay, go = set(report.kept), set(report.deleted)
    rows = []
    for each in repository.generations():
        if each.name in stay | go:
            why = ", ".join(report.reasons.get(each.name, ())) if each.name in stay else "-"
            created = each.created.replace("T", " ").removesuffix("Z")
            what = "keep" if each.name in stay else "delete"
            rows.append([each.name, created, each.volume or "-", what, why])
    unreadable = sorted(go.difference(row[0] for row in rows))
    rows += [[name, "-", "-", "delete", "-"] for name in unreadable]
    write_table(["GENERATION", "CREATED (UTC)", "VOLUME", "", "FOR"], rows)
