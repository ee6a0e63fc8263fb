"""``thinmeta extract``: a volume's content out of a pool's two images."""

from __future__ import annotations

from thinmeta.cli.options import Option, parse, size
from thinmeta.cli.output import STDOUT, write_error, write_text
from thinmeta.cli.pools import find_source
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.cli.still import live_size, still_volume
from thinmeta.errors import UsageError
from thinmeta.files import OutputFile
from thinmeta.report import human_bytes

HELP = """\
Usage: thinmeta extract [--size BYTES] [--external-origin FILE] [--json] [-m]
                        META DATA ID -o OUT
       thinmeta extract [OPTION]... POOL ID -o OUT

Copies the content of thin device ID out of a pool whose metadata is META and whose data
is DATA, devices or images of them, or out of the live pool POOL, where ID may be a name,
too. A volume that is active and can be written to is refused there: it would change
while it is copied. What was never written is a hole in OUT, which takes up no space there
and reads as zeros.

Prints the sha256 of the whole content as sha256sum does, so that 'sha256sum -c' takes it.

Options
  -o, --output OUT       where to write; appears when it is whole. A device or a pipe is
                         written directly; -o - is stdout, and then the sha256 goes to
                         stderr.
      --size BYTES       the size of the volume, also as 512M, 10GiB or 20971520s
                         (sectors). A pool does not know how large its volumes are
                         (LVM does: lvs --units b); without --size the end of the last
                         block written is taken, a line on stderr says so, and
                         "size_source" in the JSON is "guessed". In a live pool the size
                         of what is active, or what LVM says, is taken first: "live".
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
  thinmeta extract vg/pool home-monday -o - | zstd > home.zst
"""

OPTIONS = (
    Option("output", "o", takes="a word"),
    Option("size", takes="a word"),
    Option("external-origin", takes="a word"),
)


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("extract", arguments, OPTIONS, ("META", "DATA", "ID"), optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    out = parsed.value("output")
    if out is None:
        raise UsageError("extract: -o OUT is missing; see 'thinmeta extract --help'")
    given = parsed.value("size")
    size_bytes = None if given is None else size(given, "--size")
    origin = parsed.value("external-origin")
    source = find_source(parsed.words[0], parsed.metadata_snapshot())
    device_id = source.device_number(parsed.words[-1], "ID")
    live = source.live
    if live is None and len(parsed.words) < 3:
        raise UsageError(
            f"extract: ID is missing: {source.word} is no live pool, so DATA is needed; see "
            "'thinmeta extract --help'"
        )
    if live is not None and len(parsed.words) > 2:
        raise UsageError(
            f"extract: {source.word} is a live pool and knows its data: leave DATA out; see "
            "'thinmeta extract --help'"
        )
    data = parsed.words[1] if live is None else live.data_path
    size_source = "guessed" if size_bytes is None else "given"
    if live is not None:
        active = still_volume(live, device_id)
        if size_bytes is None:
            size_bytes = live_size(live, device_id, active)
            size_source = "guessed" if size_bytes is None else "live"
        if origin is None and active is not None:
            origin = active.external_origin

    raise_on_termination()
    with source.reading(data) as pool:
        device = pool.devices[device_id]
        with device.open(size_bytes=size_bytes, external_origin=origin) as volume:
            inputs = tuple(each for each in (source.metadata, data, origin) if each is not None)
            output = OutputFile(
                "/dev/stdout" if out == "-" else out,
                inputs=inputs,
                needs_bytes=volume.size_bytes,
                name=STDOUT if out == "-" else None,
            )
            with output as target, progress("extracting", in_bytes=True) as report:
                to_stdout = output.is_stdout()
                sha256, total, mapped = volume.extract(target, progress=report)
                if live is not None:
                    still_volume(live, device_id)  # somebody may have come meanwhile
    if size_source == "guessed":
        write_error(
            f"thinmeta: the size, {human_bytes(total)} ({total} bytes), was guessed from the "
            "last block written; --size gives the real one\n"
        )
    if parsed.has("json"):
        import json

        text = json.dumps(
            {
                "metadata": source.word,
                "metadata_snapshot": source.snapshot,
                "data": data,
                "device_id": device_id,
                "output": out,
                "sha256": sha256,
                "size_bytes": total,
                "size_source": size_source,
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
