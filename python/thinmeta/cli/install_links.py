"""``thinmeta install-links``: the drop-ins under the names of the programs they stand for."""

from __future__ import annotations

import os
import sys
from textwrap import fill

from thinmeta.cli.dropins import NAMES
from thinmeta.cli.options import Option, parse
from thinmeta.cli.output import write_text
from thinmeta.errors import UsageError

_LINES = fill(" ".join(NAMES), 84, initial_indent="  ", subsequent_indent="  ")
HELP = f"""\
Usage: thinmeta install-links [--dry-run] [--remove] DIR

Makes links to this program in the folder DIR, called as the programs of
thin-provisioning-tools that it stands for:

{_LINES}

Called by such a name, thinmeta does what that program does. What is there and is no link
to thinmeta is neither replaced nor removed; all names are looked at before any is made.

Options
  -n, --dry-run          say what would be done, and do nothing
      --remove           remove the links
  -h, --help             print this

Examples
  thinmeta install-links /usr/local/lib/thinmeta
  thinmeta install-links --remove /usr/local/lib/thinmeta
"""

OPTIONS = (Option("remove"),)
COMMON = (Option("help", "h"), Option("dry-run", "n"))
PROGRAM = "thinmeta"


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("install-links", arguments, OPTIONS, ("DIR",), common=COMMON)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    folder = os.fspath(parsed.words[0])
    os.listdir(folder)  # says what is wrong with it
    target = _program()
    there = {name: _found(os.path.join(folder, name)) for name in NAMES}
    removes, is_dry = parsed.has("remove"), parsed.has("dry-run")
    foreign = [name for name, found in there.items() if found is not None and not _is_ours(found)]
    if foreign and not removes:
        raise UsageError(
            f"install-links: {os.path.join(folder, foreign[0])} is there and is no link to "
            f"{PROGRAM}: remove it, or take another folder"
        )
    for name, found in there.items():
        path = os.path.join(folder, name)
        if removes:
            if found is None or name in foreign:
                continue
            if not is_dry:
                os.unlink(path)
            write_text(f"{_would(is_dry, 'remove')} {path}\n")
        elif found != target:
            if not is_dry:
                _link(target, path)
            write_text(f"{_would(is_dry, 'link')} {path} -> {target}\n")
    return 0


def _would(is_dry: bool, what: str) -> str:
    return f"would {what}" if is_dry else {"link": "linked", "remove": "removed"}[what]


def _program() -> str:
    """The program that was called, with its whole path."""
    program = os.path.abspath(sys.argv[0])
    if os.path.basename(program) == PROGRAM and os.access(program, os.X_OK):
        return program
    raise UsageError(
        f"install-links: call the installed program, {PROGRAM}: links to {program} would not work"
    )


def _found(path: str) -> str | None:
    """Where a link leads to, nothing if there is nothing, and itself if it is no link."""
    if not os.path.lexists(path):
        return None
    return os.readlink(path) if os.path.islink(path) else path


def _is_ours(target: str) -> bool:
    return os.path.basename(target) == PROGRAM


def _link(target: str, path: str) -> None:
    """Make a link, or put it in the place of one of ours, which is never missing meanwhile."""
    fresh = f"{path}.{os.getpid()}"
    os.symlink(target, fresh)
    try:
        os.rename(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise
