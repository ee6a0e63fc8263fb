"""What the documents claim can be run, found and measured."""

import hashlib
import os
import re
from pathlib import Path

import pytest

from ondisk import BLOCK, crc_register
from oracles import require_module
from thinmeta.engine import Store

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCS = REPOSITORY / "docs"


def programs(page: Path) -> list[tuple[int, str]]:
    """The Python programs of a page, each with the line that it begins on."""
    text = page.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


def run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the programs of a page one after the other, as a reader would type them."""
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "documented"}
    all_programs = programs(page)
    for line, program in all_programs:
        # Tracebacks name the line of the page.
        exec(compile("\n" * line + program, os.fspath(page), "exec"), names)
    return len(all_programs)


def test_the_programs_of_the_engine_s_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_module("numpy")
    require_module("pyarrow")
    assert run(DOCS / "engine.md", tmp_path, monkeypatch) >= 10


# ---- docs/format.md ----

#: Bytes of each type in the tables.
TYPES = {"u16": 2, "u32": 4, "u64": 8}


def layout(heading: str) -> dict[str, tuple[int, int]]:
    """Where the first table of a section puts its fields: offset and bytes."""
    text = (DOCS / "format.md").read_text()
    section = re.split(r"^#+ ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    rows = re.findall(r"^\| (\d+) \| ([\w ]+?) \| (\w+) \|", section, re.MULTILINE)
    fields = {
        name: (int(offset), TYPES.get(kind) or int(kind.removesuffix(" bytes")))
        for offset, kind, name in rows
    }
    ends = [offset + size for offset, size in fields.values()]
    assert ends[:-1] == [offset for offset, _ in fields.values()][1:], "nothing is padded"
    return fields


def field(block: bytes, fields: dict[str, tuple[int, int]], name: str) -> bytes:
    offset, size = fields[name]
    return block[offset : offset + size]


def number(block: bytes, fields: dict[str, tuple[int, int]], name: str) -> int:
    return int.from_bytes(field(block, fields, name), "little")


def leaf_entries(raw: bytes, at: int) -> list[tuple[int, bytes]]:
    """Keys and values of a one-leaf tree, as "B-tree nodes" has it."""
    block, header = raw[at * BLOCK :][:BLOCK], layout("B-tree nodes")
    assert number(block, header, "flags") == 2
    assert number(block, header, "blocknr") == at
    entries, capacity, size = (
        number(block, header, name) for name in ("nr_entries", "max_entries", "value_size")
    )
    assert capacity == (BLOCK - 32) // (8 + size) // 3 * 3
    begin = 32 + 8 * capacity
    return [
        (
            int.from_bytes(block[32 + 8 * index :][:8], "little"),
            block[begin + size * index :][:size],
        )
        for index in range(entries)
    ]


def test_a_store_lies_on_the_disk_as_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "s.img"
    with Store.create(path, size_bytes=256 * BLOCK) as store:
        fresh = path.read_bytes()
        with store.transaction() as txn:
            txn.tree("first", value_bytes=20)[7] = b"twenty bytes: a valu"
            txn.tree("zweiter Bäum")[2**64 - 1] = 2**64 - 2
            txn.snapshot("first", "first@monday")
    raw = path.read_bytes()
    fields = layout("Store superblock")

    for image, generation in [(fresh, 1), (raw, 2)]:
        block = image[:BLOCK]
        assert number(block, fields, "csum") == crc_register(block[4:]) ^ 1398034258
        assert field(block, fields, "magic") == b"thinmeta"
        assert number(block, fields, "version") == 1
        assert number(block, fields, "generation") == generation
        for name in ("flags", "blocknr", "uuid", "incompat_flags"):
            assert not any(field(block, fields, name)), name
        root = field(block, fields, "metadata_space_map_root")
        assert int.from_bytes(root[:8], "little") == 256
        end = sum(fields["metadata_space_map_root"])
        assert not any(root[32:])
        assert end <= 512
        assert not any(block[end:])
    root = field(fresh[:BLOCK], fields, "metadata_space_map_root")
    bitmap_root, overflow_root = (int.from_bytes(root[at : at + 8], "little") for at in (16, 24))
    assert (bitmap_root, overflow_root) == (1, 2)
    assert number(fresh[:BLOCK], fields, "catalogue_root") == 4

    entry = layout("Catalogue")
    assert sum(entry["name"]) == 256
    roots = {}
    for key, value in leaf_entries(raw, number(raw[:BLOCK], fields, "catalogue_root")):
        text = field(value, entry, "name")[: number(value, entry, "name_bytes")]
        assert key == int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
        assert number(value, entry, "kind") == 0
        assert not any(field(value, entry, "padding"))
        assert field(value, entry, "name")[len(text) :].count(0) == 232 - len(text)
        roots[text.decode()] = (number(value, entry, "root"), number(value, entry, "value_bytes"))
    assert roots["first"] == roots["first@monday"]
    assert [size for _, size in roots.values()].count(20) == 2
    assert leaf_entries(raw, roots["first"][0]) == [(7, b"twenty bytes: a valu")]
    assert leaf_entries(raw, roots["zweiter Bäum"][0]) == [
        (2**64 - 1, (2**64 - 2).to_bytes(8, "little"))
    ]
