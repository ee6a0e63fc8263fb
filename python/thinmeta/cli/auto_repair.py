"""What ``thinmeta check`` does when it is to write: put right, and clear a flag."""

from __future__ import annotations

from thinmeta.cli.check import write_report
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.mending import auto_repair_fields
from thinmeta.report import check_json
from thinmeta.tools import check_and_clear_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.options import Parsed
    from thinmeta.report import Scope

CLEARED = "needs_check was cleared.\n"


def repair(parsed: Parsed, word: str, path: str, *, clears: bool) -> int:
    """Put right what the trees prove, and return the exit status."""
    quiet = parsed.has("quiet")
    with progress("checking", quiet=quiet) as report:
        fields = auto_repair_fields(path, clear_needs_check=clears, progress=report)
    before, after = fields["before"], fields["after"]
    if parsed.has("json") and not quiet:
        document = {
            "metadata": word,
            "before": check_json(before, word, None),
            "after": None if after is None else check_json(after, word, None),
            "refused": fields["refused"],
            "needs_check_cleared": fields["needs_check_cleared"],
        }
        write_json(document)
    elif not quiet:
        write_report(before)
        if fields["refused"]:
            write_text(f"Nothing was put right: {fields['refused']}.\n")
        if after is not None:
            write_text("What could be was put right. Now:\n")
            write_report(after)
        if fields["needs_check_cleared"]:
            write_text(CLEARED)
    return 0 if (after or before)["clean"] else 1


def clear(parsed: Parsed, word: str, path: str, *, skip_mappings: bool) -> int:
    """Check, clear ``needs_check`` if the pool is sound, and return the exit status."""
    quiet = parsed.has("quiet")
    with progress("checking", quiet=quiet) as report:
        fields, cleared = check_and_clear_fields(
            path,
            superblock_only=False,
            skip_mappings=skip_mappings,
            minor=False,
            like_1_x=False,
            progress=report,
        )
    scope: Scope = "without_mappings" if skip_mappings else "all"
    if parsed.has("json") and not quiet:
        write_json({**check_json(fields, word, None, scope), "needs_check_cleared": cleared})
    elif not quiet:
        write_report(fields, scope)
        if cleared:
            write_text(CLEARED)
    return 0 if fields["clean"] else 1
