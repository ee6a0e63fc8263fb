"""Drop-ins: the programs of thin-provisioning-tools under their own names.

``thinmeta thin_check …``, or a link called ``thin_check``: options and data are those of
the peers, 1.x where its generations differ, so that what calls them need not be changed.
Messages are ours.

Exit status: 0 where the peer ends with 0; 1 where it fails, whatever the reason, as 0.9
has it. With ``THINMETA_COMPAT=1.x`` in the environment it is 1.x's own: 64, and 2 for
wrong usage.
"""

from __future__ import annotations

import os

__all__ = ["NAMES", "PEER_VERSION", "run"]

#: The programs that there are; each has a module of its name in this package.
NAMES = (
    "thin_check",
    "thin_delta",
    "thin_dump",
    "thin_ls",
    "thin_metadata_pack",
    "thin_metadata_size",
    "thin_metadata_unpack",
    "thin_migrate",
    "thin_repair",
    "thin_restore",
    "thin_rmap",
    "thin_shrink",
    "thin_trim",
)
#: Whose bytes are printed: who asks for a version wants to know what to expect.
PEER_VERSION = "1.1.0"

FAILED, NEWER_FAILED, NEWER_USAGE = 1, 64, 2


def run(name: str, words: list[str]) -> int:
    """Run a drop-in and return its exit status; every failure is told here.

    Args:
        name: One of :data:`NAMES`.
        words: What follows it on the command line.
    """
    parsed = None
    try:
        from thinmeta.cli.dropins.options import parse
        from thinmeta.cli.output import flush_stdout, write_text

        module = __import__(f"thinmeta.cli.dropins.{name}", fromlist=["run"])
        parsed = parse(name, words, module.OPTIONS, module.WORDS)
        status: int = 0
        if parsed.has("help"):
            write_text(module.HELP)
        elif parsed.has("version"):
            write_text(f"{PEER_VERSION}\n")
        else:
            status = module.run(parsed)
        flush_stdout()
    except SystemExit:
        raise
    except BaseException as error:  # an interrupt and a panic of the native module, too
        try:
            return _failed(error, quiet=parsed is not None and parsed.has("quiet"))
        except KeyboardInterrupt:  # a second one
            return 130
    return _failure() if status else 0


def _failed(error: BaseException, *, quiet: bool) -> int:
    """Say what went wrong; what a signal has ended keeps the status for that."""
    from thinmeta.cli.dropins.options import WrongLineError
    from thinmeta.cli.failures import BROKEN_PIPE, INTERRUPTED, report_failure

    status = report_failure(error, quiet=quiet)
    if status >= INTERRUPTED and status != BROKEN_PIPE:
        return status
    return _failure(wrong_usage=isinstance(error, WrongLineError))


def _failure(*, wrong_usage: bool = False) -> int:
    if os.environ.get("THINMETA_COMPAT") != "1.x":
        return FAILED
    return NEWER_USAGE if wrong_usage else NEWER_FAILED
