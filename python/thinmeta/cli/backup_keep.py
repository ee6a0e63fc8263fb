"""``thinmeta backup init``, ``verify`` and ``unlock``: keeping a repository."""

from __future__ import annotations

from thinmeta.cli.backup_events import COMMON, Reporter
from thinmeta.cli.backup_key import given_key, open_repository
from thinmeta.cli.options import Option, parse
from thinmeta.cli.output import write_text
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.backup import GenerationState, VerifyReport

INIT_HELP = """\
Usage: thinmeta backup init [OPTION]... REPO

Makes a repository: a folder, which is made if it is not there and has to be empty if it is,
or s3://BUCKET/PREFIX and the like ('thinmeta backup --help').

With a key ('thinmeta backup key' makes one) everything in it is encrypted (AES-256-GCM), and
every other command needs that key. It is not kept in REPO: without it nothing can be restored.

Options
      --key-file FILE, --key-command COMMAND
                     encrypt, under the key in FILE, or the one that COMMAND prints
      --repair       make config.json anew, where it is lost or damaged and the generations
                     are there
      --json         print events, a line of JSON each
  -h, --help         print this
"""
VERIFY_HELP = """\
Usage: thinmeta backup verify [--quick] [--mend] [--json] REPO

Reads every object and compares all content with its BLAKE3. Says what is missing or damaged,
and for each generation that needs it which parts of the volume cannot be restored. The exit
status is 1 then.

Options
      --quick        do not read the packs: only see that all objects are there
      --mend         note in REPO which packs are damaged or gone: what 'thinmeta backup create
                     --full' finds of their content in the volume is stored again, which may
                     mend older generations, too
      --key-file FILE, --key-command COMMAND
                     the key of an encrypted repository: in FILE, or printed by COMMAND
      --json         print events, a line of JSON each
  -v, --verbose      say more
  -h, --help         print this
"""
UNLOCK_HELP = """\
Usage: thinmeta backup unlock [--dry-run] [--json] REPO

Removes the marks of backups and prunes that may be dead. Whoever is killed leaves a mark
behind. On the machine where that happened it counts for nothing; another machine cannot know,
and a prune there refuses to work.

Only use it if it is certain that nothing is at work: a backup that is declared dead has to be
run again, and a prune that goes on deleting beside a new backup may destroy it.

Options
  -n, --dry-run      only show them
      --key-file FILE, --key-command COMMAND
                     the key of an encrypted repository: in FILE, or printed by COMMAND
      --json         print events, a line of JSON each
  -v, --verbose      say more
  -h, --help         print this
"""
#: Lost ranges of a generation that are shown; JSON has more.
_SHOWN_RANGES = 5


def run_init(arguments: list[str]) -> int:
    """Run ``init`` on its words and return its exit status."""
    parsed = parse("backup init", arguments, (Option("repair"),), ("REPO",), common=COMMON)
    if parsed.has("help"):
        write_text(INIT_HELP)
        return 0
    from thinmeta.backup import Repository

    reporter = Reporter(parsed, "init")
    repaired = parsed.has("repair")
    with reporter.logging():
        key = given_key(parsed)
        make = Repository.repair if repaired else Repository.init
        repository = make(parsed.words[0], key=key)
    what = "config.json was made anew"
    if not repaired:
        what = "an empty repository" if key is None else "an empty, encrypted repository"
    reporter.done(
        f"{repository.address}: {what}, {repository.id}\n",
        repository=repository.address,
        id=repository.id,
        encrypted=key is not None,
        repaired=repaired,
    )
    return 0


def run_verify(arguments: list[str]) -> int:
    """Run ``verify`` on its words and return its exit status."""
    options = (Option("quick"), Option("mend"))
    parsed = parse("backup verify", arguments, options, ("REPO",), common=COMMON)
    if parsed.has("help"):
        write_text(VERIFY_HELP)
        return 0
    reporter = Reporter(parsed, "verify")
    with reporter.logging():
        repository = open_repository(parsed)
        with reporter.progress("verifying") as shown:
            report = repository.verify(
                quick=parsed.has("quick"), mend=parsed.has("mend"), progress=shown
            )
    reporter.done(
        _verdict(report),
        clean=report.is_clean,
        quick=report.quick,
        objects=report.objects,
        read_bytes=report.read_bytes,
        findings=[{"object": each.object, "problem": each.problem} for each in report.findings],
        generations=[each.to_json() for each in report.generations],
    )
    return 0 if report.is_clean else 1


def _verdict(report: VerifyReport) -> str:
    lines = [f"{each.object}: {each.problem}" for each in report.findings]
    lines += [_state(each) for each in report.generations if not _is_whole(each)]
    whole = sum(each.is_restorable for each in report.generations)
    how = "looked for" if report.quick else "read"
    looked = f"{count(report.objects, 'object')} {how}"
    if not report.quick:
        looked += f", {human_bytes(report.read_bytes)} of packs"
    if report.is_clean:
        lines.append(f"CLEAN: {count(whole, 'generation')} can be restored ({looked}).")
    else:
        found = count(len(report.findings), "object")
        lines.append(
            f"DAMAGED: {found}; {whole} of {len(report.generations)} generations can be restored "
            f"in full ({looked})."
        )
    return "\n".join(lines) + "\n"


def _is_whole(state: GenerationState) -> bool:
    return state.is_restorable and not state.bookmark_lost


def _state(state: GenerationState) -> str:
    if not state.readable:
        return f"{state.name}: its manifest is damaged: nothing of it can be restored"
    if state.is_restorable:
        return f"{state.name}: can be restored; without its bookmark the next backup reads more"
    ranges = [f"{begin} to {begin + length}" for begin, length in state.lost[:_SHOWN_RANGES]]
    more = len(state.lost) - len(ranges)
    words = ", ".join(ranges) + (f" and {count(more, 'range')} more" if more > 0 else "")
    return f"{state.name}: {human_bytes(state.lost_bytes)} are lost: bytes {words}"


def run_unlock(arguments: list[str]) -> int:
    """Run ``unlock`` on its words and return its exit status."""
    options = (Option("dry-run", "n"),)
    parsed = parse("backup unlock", arguments, options, ("REPO",), common=COMMON)
    if parsed.has("help"):
        write_text(UNLOCK_HELP)
        return 0
    dry_run = parsed.has("dry-run")
    reporter = Reporter(parsed, "unlock")
    with reporter.logging():
        found = open_repository(parsed).unlock(dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    lines = [f"{verb} {each.name}: {each.owner}, {each.state}" for each in found]
    reporter.done(
        "\n".join(lines or ["no marks of anybody who may be dead"]) + "\n",
        dry_run=dry_run,
        marks=[{"name": each.name, "owner": each.owner, "state": each.state} for each in found],
    )
    return 0
