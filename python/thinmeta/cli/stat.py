"""``thinmeta stat``: what a pool is like."""

from __future__ import annotations

from thinmeta.cli.options import parse
from thinmeta.cli.output import write_json, write_table, write_text
from thinmeta.cli.pools import find_source
from thinmeta.cli.progress import progress
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.cli.options import Option
    from thinmeta.statistics import (
        FreeStatistics,
        PoolStatistics,
        RunCount,
        TreeStatistics,
    )

METADATA_BLOCK_BYTES = 4096
HELP = """\
Usage: thinmeta stat [--json] [-m] META

Shows what a pool is like, from all that the metadata META say, a device or an image of
it, or a live pool: how long the runs are that volumes lie in, what they share, how strewn
they are, how well the trees are filled, and how what is free lies.

Devices
  RUNS    stretches that lie side by side in the volume and in the data
  SEEKS   how often the data do not go on where they ended, read in order
  FILL    how full the leaves of its tree are; a leaf has up to 252 mappings
Runs      of all devices by their length in blocks, in powers of two
Owners    data blocks by how many mappings have them
Trees     all mappings, with nodes that devices share counted once; which device has
          which tree; what is known of devices; the index of the data's space map; and of
          both space maps the counts of three and more
Free      runs of free blocks, by their length

Options
      --json             print JSON, with all sizes in blocks and bytes, the runs of every
                         device, and leaves by how full they are
  -m, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one
                         at BLOCK; works while the pool is in use. It does not know what
                         is free.
  -h, --help             print this

Examples
  thinmeta stat pool_tmeta.img
  thinmeta stat vg/pool --json
"""


#: None but those of every command that reads.
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("stat", arguments, OPTIONS, ("META",))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    source = find_source(parsed.words[0], parsed.metadata_snapshot())
    with source.reading() as pool, progress("reading all mappings") as report:
        found = pool.statistics(progress=report)
    if parsed.has("json"):
        write_json(
            {
                "metadata": source.word,
                "metadata_snapshot": source.snapshot,
                **_json(found),
            }
        )
        return 0
    _print(found)
    return 0


# ---- for people ----


def _print(found: PoolStatistics) -> None:
    size = found.data_block_size_bytes
    write_text(
        f"{count(len(found.devices), 'device')}, {_blocks(found.mapped_blocks, size)} mapped in "
        f"{_blocks(found.data_blocks, size)} of data\n\n"
    )
    heads = ["DEV", "MAPPED", "EXCLUSIVE", "SHARED", "RUNS", "SEEKS", "LEVELS", "NODES", "FILL"]
    write_table(
        heads,
        [
            [
                str(device.id),
                *(
                    human_bytes(blocks * size)
                    for blocks in (
                        device.mapped_blocks,
                        device.exclusive_blocks,
                        device.shared_blocks,
                    )
                ),
                str(sum(each.runs for each in device.runs)),
                str(device.seeks),
                str(device.tree.levels),
                str(device.tree.nodes),
                _percent(device.tree.fill),
            ]
            for device in found.devices
        ],
    )
    write_text("\n")
    heads = ["RUN_BLOCKS", "RUN_BYTES", "RUNS", "MAPPED", "PART"]
    write_table(heads, [_run_row(each, size, found.mapped_blocks) for each in found.runs])
    write_text("\n")
    write_table(
        ["OWNERS", "DATA_BLOCKS", "DATA", "PART"],
        [
            [
                _span(each.min_owners, each.max_owners),
                str(each.data_blocks),
                human_bytes(each.data_blocks * size),
                _percent(each.data_blocks / found.data_blocks),
            ]
            for each in found.owners
        ],
    )
    write_text("\n")
    write_table(
        ["TREE", "LEVELS", "NODES", "LEAVES", "ENTRIES", "FILL", "LEAST", "MOST"],
        [_tree_row("mappings", found.mappings)]
        + [_tree_row(name, tree) for name, tree in found.trees.items()],
    )
    for name, free, block_bytes in (
        ("data", found.free_data, size),
        ("metadata", found.free_metadata, METADATA_BLOCK_BYTES),
    ):
        if free is not None:
            write_text(
                f"\nfree {name}: {_blocks(free.free, block_bytes)} of "
                f"{_blocks(free.blocks, block_bytes)}\n"
            )
            heads = ["RUN_BLOCKS", "RUN_BYTES", "RUNS", "FREE", "PART"]
            write_table(heads, [_run_row(each, block_bytes, free.free) for each in free.runs])


def _blocks(blocks: int, block_bytes: int) -> str:
    return f"{count(blocks, 'block')} ({human_bytes(blocks * block_bytes)})"


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}-{most}"


def _percent(part: float) -> str:
    return f"{100 * part:.1f}%"


def _run_row(run: RunCount, block_bytes: int, blocks: int) -> list[str]:
    return [
        _span(run.min_blocks, run.max_blocks),
        f"{human_bytes(run.min_blocks * block_bytes)}+",
        str(run.runs),
        human_bytes(run.blocks * block_bytes),
        _percent(run.blocks / blocks),
    ]


def _tree_row(name: str, tree: TreeStatistics) -> list[str]:
    return [
        name,
        *map(str, (tree.levels, tree.nodes, tree.leaves, tree.entries)),
        _percent(tree.fill),
        str(tree.least_entries),
        str(tree.most_entries),
    ]


# ---- for programs ----


def _json(found: PoolStatistics) -> dict[str, Any]:
    size = found.data_block_size_bytes
    return {
        "data_block_size_bytes": size,
        "mapped_blocks": found.mapped_blocks,
        "mapped_bytes": found.mapped_blocks * size,
        "data_blocks": found.data_blocks,
        "data_bytes": found.data_blocks * size,
        "devices": [
            {
                "device_id": device.id,
                "mapped_blocks": device.mapped_blocks,
                "mapped_bytes": device.mapped_blocks * size,
                "exclusive_blocks": device.exclusive_blocks,
                "exclusive_bytes": device.exclusive_blocks * size,
                "shared_blocks": device.shared_blocks,
                "shared_bytes": device.shared_blocks * size,
                "seeks": device.seeks,
                "runs": _json_runs(device.runs, size),
                "tree": _json_tree(device.tree, by_fill=False),
            }
            for device in found.devices
        ],
        "owners": [
            {**each._asdict(), "data_bytes": each.data_blocks * size} for each in found.owners
        ],
        "runs": _json_runs(found.runs, size),
        "trees": {
            name: _json_tree(tree)
            for name, tree in {"mappings": found.mappings, **found.trees}.items()
        },
        "free_data": _json_free(found.free_data, size),
        "free_metadata": _json_free(found.free_metadata, METADATA_BLOCK_BYTES),
    }


def _json_runs(runs: tuple[RunCount, ...], block_bytes: int) -> list[dict[str, int]]:
    return [
        {
            **each._asdict(),
            "min_bytes": each.min_blocks * block_bytes,
            "bytes": each.blocks * block_bytes,
        }
        for each in runs
    ]


def _json_tree(tree: TreeStatistics, *, by_fill: bool = True) -> dict[str, Any]:
    fields = tree._asdict()
    if not by_fill:
        del fields["leaves_by_fill"]
    return {**fields, "fill": round(tree.fill, 4)}


def _json_free(free: FreeStatistics | None, block_bytes: int) -> dict[str, Any] | None:
    if free is None:
        return None
    return {
        "blocks": free.blocks,
        "bytes": free.blocks * block_bytes,
        "free_blocks": free.free,
        "free_bytes": free.free * block_bytes,
        "runs": _json_runs(free.runs, block_bytes),
    }
