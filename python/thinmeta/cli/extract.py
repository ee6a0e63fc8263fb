"""``thinmeta extract``: a volume's content out of a pool's two images."""

from __future__ import annotations

from thinmeta.cli.options import Option, device_number, parse, size
from thinmeta.cli.output import STDOUT, write_error, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import UsageError
from thinmeta.files import OutputFile
from thinmeta.pool import open_pool
from thinmeta.report import human_bytes

HELP = """\
Usage: thinmeta extract [--size BYTES] [--external-origin FILE] [--json] [-m]
                        META DATA ID -o OUT

Copies the content of thin device ID out of a pool whose metadata is META and whose data
is DATA, devices or images of them. The kernel is not needed. What was never written is a
hole in OUT, which takes up no space there and reads as zeros.

Prints the sha256 of the whole content as sha256sum does, so that 'sha256sum -c' takes it.

Options
  -o, --output OUT       where to write; appears when it is whole. A device or a pipe is
                         written directly; -o - is stdout, and then the sha256 goes to
                         stderr.
      --size BYTES       the size of the volume, also as 512M, 10GiB or 20971520s
                         (sectors). A pool does not know how large its volumes are
                         (LVM does: lvs --units b); without --size the end of the last
                         block written is taken, a line on stderr says so, and
                         "size_source" in the JSON is "guessed".
      --external-origin FILE
                         what shows through where nothing was written, for volumes that
                         were made as snapshots of something outside the pool
      --json             print JSON
  -m, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one
                         at BLOCK
  -h, --help             print this

Examples
  thinmeta extract pool_tmeta.img pool_tdata.img 1 -o volume.img --size 10GiB
  thinmeta extract /dev/vg/pool_tmeta /dev/vg/pool_tdata 1 -o - | zstd > volume.zst
"""

OPTIONS = (
    Option("output", "o", takes="a word"),
    Option("size", takes="a word"),
    Option("external-origin", takes="a word"),
)


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("extract", arguments, OPTIONS, ("META", "DATA", "ID"))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    path, data, word = parsed.words
    device_id = device_number(word, "ID")
    out = parsed.value("output")
    if out is None:
        raise UsageError("extract: -o OUT is missing; see 'thinmeta extract --help'")
    given = parsed.value("size")
    size_bytes = None if given is None else size(given, "--size")
    origin = parsed.value("external-origin")
    snapshot = parsed.metadata_snapshot()

    raise_on_termination()
    with open_pool(path, metadata_snapshot=snapshot, data=data) as pool:
        device = pool.devices[device_id]
        with device.open(size_bytes=size_bytes, external_origin=origin) as volume:
            inputs = (path, data) if origin is None else (path, data, origin)
            output = OutputFile(
                "/dev/stdout" if out == "-" else out,
                inputs=inputs,
                needs_bytes=volume.size_bytes,
                name=STDOUT if out == "-" else None,
            )
            with output as target, progress("extracting") as report:
                to_stdout = output.is_stdout()
                sha256, total, mapped = volume.extract(target, progress=report)
            is_known = volume.size_is_known
    if not is_known:
        write_error(
            f"thinmeta: the size, {human_bytes(total)} ({total} bytes), was guessed from the "
            "last block written; --size gives the real one\n"
        )
    if parsed.has("json"):
        import json

        text = json.dumps(
            {
                "metadata": path,
                "metadata_snapshot": snapshot,
                "data": data,
                "device_id": device_id,
                "output": out,
                "sha256": sha256,
                "size_bytes": total,
                "size_source": "given" if is_known else "guessed",
                "mapped_bytes": mapped,
            },
            indent=2,
        )
    else:
        text = _sha256_line(sha256, out)
    (write_error if to_stdout else write_text)(text + "\n")
    return 0


def _sha256_line(sha256: str, name: str) -> str:
    """A line as sha256sum prints it, which escapes odd names and says so in front."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "" if escaped == name else "\\"
    return f"{mark}{sha256}  {escaped}"
