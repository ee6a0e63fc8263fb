"""``thinmeta backup list``: the generations of a repository."""

from __future__ import annotations

from thinmeta.cli.backup_create import summary
from thinmeta.cli.backup_events import COMMON, Reporter
from thinmeta.cli.backup_key import open_repository
from thinmeta.cli.options import Option, parse
from thinmeta.cli.output import write_json, write_table, write_text
from thinmeta.report import human_bytes

HELP = """\
Usage: thinmeta backup list [--volume NAME] [--json] REPO

Lists the generations of a repository, the oldest first. SIZE is that of the volume, DATA how
much of it is not zeros, READ how much was read for the generation, STORED how much it added
to the repository, compressed. BASE is the generation whose unchanged parts were not read.

Options
      --volume NAME  only generations of that volume
      --key-file FILE, --key-command COMMAND
                     the key of an encrypted repository: in FILE, or printed by COMMAND
      --json         print JSON
  -v, --verbose      say more
  -h, --help         print this
"""

OPTIONS = (Option("volume", takes="a word"),)


def run_list(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("backup list", arguments, OPTIONS, ("REPO",), common=COMMON)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    with Reporter(parsed, "list").warnings():
        repository = open_repository(parsed)
        volume = parsed.value("volume")
        found = [
            each for each in repository.generations() if volume is None or each.volume == volume
        ]
    if parsed.has("json"):
        write_json(
            {
                "repository": repository.address,
                "id": repository.id,
                "generations": [summary(each) for each in found],
            }
        )
        return 0
    rows = [
        [
            each.name,
            each.created.replace("T", " ").removesuffix("Z"),
            each.volume or "-",
            str(each.identity.device_id),
            human_bytes(each.size_bytes),
            human_bytes(each.data_bytes),
            human_bytes(each.read_bytes),
            human_bytes(each.packed_bytes),
            each.base.partition("-")[0].lstrip("0") if each.base else "-",
        ]
        for each in found
    ]
    heads = ["GENERATION", "CREATED (UTC)", "VOLUME", "DEV", "SIZE", "DATA", "READ", "STORED"]
    write_table([*heads, "BASE"], rows)
    return 0
