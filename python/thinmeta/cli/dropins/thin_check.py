"""``thin_check``: what LVM asks before it activates a pool."""

from __future__ import annotations

from thinmeta.cli.dropins.options import QUIET, SNAPSHOT, Option
from thinmeta.cli.output import write_error, write_text
from thinmeta.cli.progress import progress
from thinmeta.tools import check_and_clear_fields, check_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_check [-q] [-m] [--clear-needs-check-flag] [OPTION]... META

Checks the metadata of a thin pool in META, a device or an image of it. This is thinmeta's
stand-in for thin_check of thin-provisioning-tools; 'thinmeta check' prints JSON and takes
the names of live pools as well.

Two numbers are printed, and on stderr what is wrong. The exit status is 0 when all is well,
and 1 otherwise.

Options
  -q, --quiet            print nothing, also of errors
      --super-block-only look at the first block only
      --skip-mappings    leave out the mappings of the devices
      --ignore-non-fatal-errors
                         leaks of blocks that are counted once, and nodes of an odd shape,
                         are no errors
      --clear-needs-check-flag
                         if all is well, clear the flag that the kernel sets when a pool
                         has to be checked before it is changed again; that is the only
                         thing that is written, and nothing where it is not set
      --override-mapping-root BLOCK, --override-details-root BLOCK
                         check the trees under these roots in the place of those that
                         the superblock names
  -m, --metadata-snap, --metadata-snapshot[=BLOCK]
                         check the metadata snapshot that the pool holds, or the one at
                         BLOCK (also -mBLOCK); works while the pool is in use
      --auto-repair      if nothing else is wrong, set counts of one of blocks that
                         nothing refers to (leaks) and wrong sums right, in one
                         transaction, and clear the flag of --clear-needs-check-flag;
                         'thinmeta check --auto-repair' puts more right
  -h, --help             print this
  -V, --version          print the version of the peer that this stands for
"""

OPTIONS = (
    SNAPSHOT,
    QUIET,
    Option("--super-block-only"),
    Option("--skip-mappings"),
    Option("--ignore-non-fatal-errors"),
    Option("--clear-needs-check-flag"),
    Option("--auto-repair"),
    Option("--override-mapping-root", takes="a word"),
    Option("--override-details-root", takes="a word"),
)
WORDS = ("META",)

#: Sums that differ from what they sum up: the peers leave such ones behind themselves,
#: and do not look; nor at the times of mappings, nor how large a volume can be.
NO_ERRORS = ("space-map-summary", "mapping-time", "mapping-beyond-volume")
#: The peer sees this where a pool has one device, so that nothing should be shared.
DOUBLED = "mapping-doubled"
#: What the peer does not ignore, though no data is hidden.
NOT_IGNORED = ("mapped-blocks-wrong",)


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    overrides = ("override-mapping-root", "override-details-root")
    parsed.refuse_together("clear-needs-check-flag", "metadata-snap", *overrides)
    less = ("super-block-only", "skip-mappings", "ignore-non-fatal-errors")
    parsed.refuse_together("auto-repair", "metadata-snap", *less, *overrides)
    mapping_root, details_root = map(parsed.number, overrides)
    quiet, minor = parsed.has("quiet"), parsed.has("ignore-non-fatal-errors")
    superblock_only, skip_mappings = parsed.has("super-block-only"), parsed.has("skip-mappings")
    cleared = False
    with parsed.open_pool() as pool:
        superblock, (free, _) = pool._live_superblock_fields(), pool._space_numbers()
    clears = parsed.has("clear-needs-check-flag") and superblock["needs_check"]
    if not quiet:
        write_text(f"TRANSACTION_ID={superblock['trans_id']}\nMETADATA_FREE_BLOCKS={free}\n")
    repaired = ""
    with progress("checking", quiet=quiet) as report:
        if parsed.has("auto-repair"):
            fields, repaired = _auto_repair(parsed.words[0], report)
        elif clears:
            fields, cleared = check_and_clear_fields(
                parsed.words[0],
                superblock_only=superblock_only,
                skip_mappings=skip_mappings,
                minor=minor,
                like_1_x=True,
                progress=report,
            )
        else:
            fields = check_fields(
                parsed.words[0],
                metadata_snapshot=parsed.snapshot(),
                superblock_only=superblock_only,
                skip_mappings=skip_mappings,
                mapping_root=mapping_root,
                details_root=details_root,
                progress=report,
            )
    wrong = _is_wrong(fields, minor=minor)
    if not quiet:
        write_error(repaired or _text(fields, clears=clears, cleared=cleared))
    return 1 if wrong else 0


def _auto_repair(
    path: str, progress: Callable[[int, int], object] | None
) -> tuple[dict[str, Any], str]:
    """Put right what 1.x puts right: how the pool is now, and what to say of it."""
    from thinmeta.mending import auto_repair_fields

    repair = auto_repair_fields(path, clear_needs_check=True, like_1_x=True, progress=progress)
    text = _text(repair["before"], clears=False, cleared=repair["needs_check_cleared"])
    if repair["refused"]:
        text += f"nothing was repaired: {repair['refused']}\n"
    if repair["after"] is not None:
        text += "repaired\n"
    return repair["after"] or repair["before"], text


def _is_wrong(fields: dict[str, Any], *, minor: bool) -> bool:
    """Whether the peer would call anything of this an error."""
    for finding in fields["findings"]:
        severity, code = finding["severity"], finding["code"]
        if severity == "info" or code in NO_ERRORS:
            continue
        if code == DOUBLED and fields["devices"] != 1:
            continue
        if severity == "fatal" or not minor or code in NOT_IGNORED:
            return True
    return minor and bool(fields["overcounted"])


def _text(fields: dict[str, Any], *, clears: bool, cleared: bool) -> str:
    if not fields["findings"]:
        return ""
    from thinmeta.report import check_text
    from thinmeta.types import CheckReport

    text = check_text(CheckReport.from_fields(fields))
    if fields["devices"] != 1 and any(each["code"] == DOUBLED for each in fields["findings"]):
        text += "1.x look for blocks twice in pools of one device only: that is no failure here\n"
    if cleared:
        text += "cleared needs_check\n"
    elif clears:
        text += "needs_check was not cleared: the pool has to be repaired first\n"
    return text
