"""``thinmeta backup``: generations of volumes in a folder or an object store."""

from __future__ import annotations

from thinmeta.cli.options import did_you_mean
from thinmeta.cli.output import write_error, write_text
from thinmeta.errors import UsageError

HELP = """\
Usage: thinmeta backup COMMAND [OPTION]... REPO [WORD]...

Keeps generations of volumes. What has not changed since an earlier generation is neither
read nor stored again, equal content is stored once, compressed, and every generation can be
restored by itself.

REPO is a folder (also as file://), or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,
az://CONTAINER/PREFIX. Object stores need obstore (pip install 'thinmeta[s3]') and take
credentials, region and endpoint from the environment: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, GOOGLE_APPLICATION_CREDENTIALS,
AZURE_STORAGE_ACCOUNT_NAME, ...

A repository that was made with a key is encrypted. Every command needs the key then: in a file
(--key-file, or THINMETA_KEY_FILE in the environment), or from a command that prints it
(--key-command, THINMETA_KEY_COMMAND). That needs cryptography (pip install
'thinmeta[encryption]').

Commands
  init     make a repository
  key      make a key for an encrypted one
  create   back up a volume: a new generation
  list     list the generations
  restore  make a file, a device or a volume hold a generation
  verify   read everything, and say which generations can be restored
  prune    delete generations, and what only they needed
  unlock   remove the marks of backups that were killed on another machine

'thinmeta backup COMMAND --help' explains one of them.

Examples
  thinmeta backup init /backup/web
  thinmeta backup create /backup/web pool_tmeta.img 2 --data pool_tdata.img --volume web
  thinmeta backup list /backup/web
  thinmeta backup restore /backup/web latest web.img
  thinmeta backup prune /backup/web --keep-last 7
"""

COMMANDS = {
    "init": "backup_keep",
    "key": "backup_key",
    "create": "backup_create",
    "list": "backup_list",
    "restore": "backup_restore",
    "verify": "backup_keep",
    "prune": "backup_prune",
    "unlock": "backup_keep",
}


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    command = arguments[0] if arguments else ""
    if command in COMMANDS:
        module = __import__(f"thinmeta.cli.{COMMANDS[command]}", fromlist=["run"])
        status: int = getattr(module, f"run_{command}")(arguments[1:])
        return status
    if command in ("--help", "-h", ""):
        if command:
            write_text(HELP)
            return 0
        write_error(HELP)
        return 2
    what = "option" if command.startswith("-") else "command"
    hint = did_you_mean(command, COMMANDS)
    raise UsageError(f"backup: there is no {what} {command!r}{hint}; see 'thinmeta backup --help'")
