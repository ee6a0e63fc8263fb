"""The command ``thinmeta``: finds the command's module, sets the exit status.

Start-up counts here: this module and what it imports before a command's own
module stay free of anything heavy, and a test reads ``-X importtime`` to keep it so.

Exit status: 0 well; 1 a problem in the data; 2 wrong usage; 3 it cannot be done;
130 interrupted; 141 the reader of our output went away.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

#: What every program that a drop-in stands for has at the front of its name.
DROP_IN = "thin_"

COMMANDS = (
    "ls",
    "check",
    "dump",
    "delta",
    "rmap",
    "stat",
    "explore",
    "extract",
    "live",
    "create",
    "snapshot",
    "delete",
    "discard",
    "grow",
    "set-transaction-id",
    "reserve-snapshot",
    "release-snapshot",
    "edit",
    "send",
    "receive",
    "replicate",
    "stream",
    "bookmark",
    "backup",
    "migrate",
    "restore",
    "repair",
    "size",
    "shrink",
    "merge",
    "pack",
    "unpack",
    "trim",
    "install-links",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; nothing is ever raised but SystemExit.

    Args:
        argv: The words after the program's name; ``None`` takes the process's own.
    """
    words = _own_words() if argv is None else list(argv)
    try:
        status = _run(words)
        from thinmeta.cli.output import flush_stdout

        flush_stdout()
    except SystemExit:
        raise
    except BaseException as error:  # an interrupt and a panic of the native module, too
        try:
            from thinmeta.cli.failures import report_failure

            return report_failure(error)
        except KeyboardInterrupt:  # a second one, or one while this was imported
            return 130
    return status


def _own_words() -> list[str]:
    """The words of this process; the name of a link to it is the first of them."""
    name = sys.argv[0].rpartition("/")[2]
    return [name, *sys.argv[1:]] if name.startswith(DROP_IN) else sys.argv[1:]


def _run(words: list[str]) -> int:
    command = words[0] if words else ""
    if command.startswith(DROP_IN):
        from thinmeta.cli import dropins

        if command in dropins.NAMES:
            return dropins.run(command, words[1:])
    if command in COMMANDS:
        # By name, so that only this command's module is loaded; B009 takes it for an attribute.
        module = f"thinmeta.cli.{command.replace('-', '_')}"
        run = getattr(__import__(module, fromlist=["run"]), "run")  # noqa: B009
        status: int = run(words[1:])
        return status
    if command in ("--version", "-V"):
        from thinmeta._core import __version__
        from thinmeta.cli.output import write_text

        write_text(f"thinmeta {__version__}\n")
        return 0
    if command in ("--help", "-h", "help", ""):
        if command == "help" and words[1:2]:
            return _run([words[1], "--help"])
        from thinmeta.cli.help import HELP
        from thinmeta.cli.output import write_error, write_text

        if command:
            write_text(HELP)
            return 0
        write_error(HELP)
        return 2

    from thinmeta.cli.options import did_you_mean
    from thinmeta.errors import UsageError

    what = "option" if command.startswith("-") else "command"
    hint = did_you_mean(command, (*COMMANDS, "--help", "--version"))
    raise UsageError(f"there is no {what} {command!r}{hint}; see 'thinmeta --help'")
