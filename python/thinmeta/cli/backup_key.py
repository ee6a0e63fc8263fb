"""Keys of encrypted repositories on the command line, and ``thinmeta backup key``."""

from __future__ import annotations

import os

from thinmeta.cli.options import Option, parse
from thinmeta.cli.output import write_text
from thinmeta.errors import RepositoryKeyError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.backup import Repository
    from thinmeta.cli.options import Parsed

__all__ = ["KEY_OPTIONS", "given_key", "open_repository"]

HELP = """\
Usage: thinmeta backup key FILE

Makes a key for an encrypted repository: 32 random bytes, as a line of 64 hexadecimal digits
in FILE, which must not be there yet and which its owner alone may read. With "-" it is
printed, for a password store.

Keep a copy where the repository is not: without the key nothing can be restored.

Options
  -h, --help         print this

Examples
  thinmeta backup key /etc/thinmeta/web.key
  thinmeta backup init --key-file /etc/thinmeta/web.key /backup/web
  thinmeta backup key - | pass insert --multiline backup/web
  thinmeta backup init --key-command 'pass show backup/web' /backup/web
"""

KEY_OPTIONS = (Option("key-file", takes="a word"), Option("key-command", takes="a word"))
FILE_VARIABLE, COMMAND_VARIABLE = "THINMETA_KEY_FILE", "THINMETA_KEY_COMMAND"


def run_key(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("backup key", arguments, (), ("FILE",), common=(Option("help", "h"),))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    from thinmeta.backup.keys import new_key, write_key_file

    path = parsed.words[0]
    if path == "-":
        write_text(new_key().hex() + "\n")
        return 0
    try:
        write_key_file(path, new_key())
    except FileExistsError as error:
        reason = "it is there already, and is perhaps the only copy of a key; nothing written"
        raise RepositoryKeyError(path, reason) from error
    write_text(f"{path}: a new key; keep a copy where the repository is not\n")
    return 0


def given_key(parsed: Parsed) -> bytes | None:
    """The key that the command line names, or else the environment.

    Raises:
        UsageError: Both a file and a command are named.
        RepositoryKeyError: What is named gives no key.
    """
    path, command = parsed.value("key-file"), parsed.value("key-command")
    names = "--key-file and --key-command"
    if path is None and command is None:
        path, command = os.environ.get(FILE_VARIABLE), os.environ.get(COMMAND_VARIABLE)
        names = f"{FILE_VARIABLE} and {COMMAND_VARIABLE}"
    if path and command:
        raise UsageError(f"{parsed.command}: {names}: one of them")
    from thinmeta.backup.keys import key_from_command, key_from_file

    if path == "" or command == "":
        # Whoever has set it wants a key: without one the repository would be written in clear.
        raise UsageError(f"{parsed.command}: {names}: one of them is set, and empty")
    if path is not None:
        return key_from_file(path)
    if command is not None:
        return key_from_command(command)
    return None


def open_repository(parsed: Parsed) -> Repository:
    """The repository that the first word names."""
    from thinmeta.backup import Repository

    key = given_key(parsed)
    try:
        return Repository.open(parsed.words[0], key=key)
    except RepositoryKeyError as error:
        if key is None or parsed.has("key-file") or parsed.has("key-command"):
            raise
        where = FILE_VARIABLE if os.environ.get(FILE_VARIABLE) else COMMAND_VARIABLE
        error.add_note(f"the key is that of {where}")
        raise
