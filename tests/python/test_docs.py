"""What the documents claim can be run, found and measured."""

import hashlib
import lzma
import os
import re
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from ondisk import BLOCK, crc_register, seal
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


def test_the_programs_of_the_pools_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(DOCS / "pools.md", tmp_path, monkeypatch) >= 12


def test_the_programs_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in ("metadata.img", "data.img"):
        packed = (REPOSITORY / "examples" / "pool" / f"{image}.xz").read_bytes()
        (tmp_path / image).write_bytes(lzma.decompress(packed))
    assert run(REPOSITORY / "README.md", tmp_path, monkeypatch) == 3
    assert "bytes in 12 ranges" in capsys.readouterr().out


LINK = r"!?\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)"
PAGES = [*REPOSITORY.glob("*.md"), *DOCS.glob("*.md"), REPOSITORY / "examples" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = [match[0] for match in re.findall(LINK, page.read_text())]
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


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


def test_a_new_pool_lies_on_the_disk_as_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "meta.img"
    sizes: Any = {"data_block_size_sectors": 128, "data_blocks": 0, "metadata_blocks": 2048}
    thinmeta.Pool.create(path, **sizes).close()
    raw = path.read_bytes()
    section = (DOCS / "format.md").read_text().split("# Reference layouts\n")[1]
    row = re.search(r"^\| csum \|(.*)\|$", section, re.MULTILINE)
    assert row is not None
    documented = [int(word, 16) for word in row[1].split("|")]
    assert len(documented) == 8
    found = [int.from_bytes(raw[at * BLOCK :][:4], "little") for at in range(8)]
    assert found == documented
    assert not any(raw[8 * BLOCK :])


def test_a_commit_changes_of_the_superblock_what_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "meta.img"
    sizes: Any = {"data_block_size_sectors": 128, "data_blocks": 100, "metadata_blocks": 100}
    thinmeta.Pool.create(path, **sizes).close()
    fields = layout("Thin superblock")
    # What a kernel leaves there, and what somebody may once put there.
    block = bytearray(path.read_bytes()[:BLOCK])
    changing = ["csum", "time", "trans_id", "held_root", "data_mapping_root"]
    changing += ["device_details_root", "data_space_map_root", "metadata_space_map_root"]
    for name, (offset, size) in fields.items():
        if name.endswith("_space_map_root"):
            block[offset + 32 : offset + size] = b"?" * 96
    for at in (*range(16, 32), *range(352, 356), *range(364, BLOCK)):
        block[at] = 0xA5
    before = seal(bytes(block), "thin superblock")
    with path.open("r+b") as file:
        file.write(before)
    with thinmeta.open_pool(path, mode="r+") as pool, pool.transaction() as txn:
        txn.create_thin(1)
        txn.insert(1, virtual_block=0, data_block=txn.allocate_data())
        txn.create_snapshot(2, origin_id=1)
        txn.set_transaction_id(0, 7)
        held = txn.reserve_metadata_snapshot()
    raw = path.read_bytes()
    after, copy = raw[:BLOCK], raw[held * BLOCK :][:BLOCK]
    for name in changing:
        assert field(after, fields, name) != field(before, fields, name), name
        if name.endswith("_space_map_root"):
            assert not any(field(after, fields, name)[32:])
            assert not any(field(copy, fields, name))
    for name in ("time", "trans_id", "data_mapping_root", "device_details_root"):
        assert field(copy, fields, name) == field(after, fields, name), name
    assert (number(copy, fields, "held_root"), number(copy, fields, "blocknr")) == (0, held)
    kept = set(range(BLOCK)).difference(
        *(range(fields[name][0], sum(fields[name])) for name in changing)
    )
    assert len(kept) > BLOCK - 400
    for at in kept:
        assert after[at] == before[at], at
        assert copy[at] == before[at] or at in range(8, 16), at


# ---- docs/invariants.md ----

ROOTS = [REPOSITORY / "src", REPOSITORY / "tests" / "core"]
TEST_ATTRIBUTE = r"#\[test\]\s*(?:#\[[^\]]*\]\s*)*fn "


def rust_files(path: list[str]) -> list[tuple[Path, list[str]]]:
    """The files that a module path leads to, and what of it is inside them."""
    found = []
    for root in ROOTS:
        for depth in range(len(path), 0, -1):
            place = root.joinpath(*path[:depth])
            files = [place.with_suffix(".rs"), place / "mod.rs"]
            found += [(file, path[depth:]) for file in files if file.is_file()]
    return found


def listed(text: str, macro: str) -> list[str]:
    """The words that a file hands to a macro which makes tests of them."""
    called = re.search(rf"^{macro}! \{{(.*?)\}}", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"\w+", called[1]) if called else []


def has_rust_test(path: str) -> bool:
    """Whether there is such a test, or a module of this name with tests in it."""
    *modules, name = path.split("::")
    for file, inside in rust_files(modules):
        text = file.read_text()
        written = re.search(rf"{TEST_ATTRIBUTE}{name}\(", text) is not None
        if not inside and (written or name in listed(text, "families")):
            return True
        if len(inside) == 1 and written and inside[0] in listed(text, "targets"):
            return True
    whole = rust_files([*modules, name])
    return any(re.search(TEST_ATTRIBUTE, file.read_text()) for file, inside in whole if not inside)


def python_file(name: str) -> Path | None:
    found = (REPOSITORY / "tests" / folder / name for folder in ("python", "kernel"))
    return next((file for file in found if file.is_file()), None)


def has_python_test(file: str, name: str) -> bool:
    path = python_file(file)
    if path is None:
        return False
    text = path.read_text()
    if name.startswith("test_"):
        return re.search(rf"^def {name}\(", text, re.MULTILINE) is not None
    # A model, which pytest runs under another name.
    return re.search(rf"^Test{name} = {name}\.TestCase$", text, re.MULTILINE) is not None


def is_there(named: str) -> bool:
    """Whether something that a law names exists."""
    if "::" in named:
        file, _, name = named.partition("::")
        return has_python_test(file, name) if file.endswith(".py") else has_rust_test(named)
    if named.startswith("make "):
        target = named.split()[1]
        makefile = (REPOSITORY / "Makefile").read_text()
        return re.search(rf"^{target}:", makefile, re.MULTILINE) is not None
    if "=" in named:
        return True  # flags for the compiler
    return (REPOSITORY / named).exists() or python_file(named) is not None


def laws() -> list[tuple[str, list[str]]]:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (DOCS / "invariants.md").read_text(), re.M)
    return [(law, re.findall(r"`([^`]+)`", held)) for law, held in rows if law != "law"]


def test_every_test_that_a_law_names_is_there() -> None:
    missing = [(law, name) for law, names in laws() for name in names if not is_there(name)]
    assert missing == []
    assert all(names for _, names in laws())
    assert len(laws()) > 60


@pytest.mark.parametrize(
    "wrong",
    [
        "crash::tests::a_crash_leaves_nothing",
        "crash::a_crash_at_any_point_leaves_the_old_state_or_the_new_one",
        "crash::tests::nothing::a_crash_at_any_point_leaves_the_old_state_or_the_new_one",
        "fuzzed::tests::nothing::kept_inputs_keep_the_law",
        "hostile::tests::circle",
        "block::nothing",
        "btree::spine",
        "test_engine_store.py::test_nothing",
        "test_engine_store.py::StoreModels",
        "test_nothing.py",
        "make nothing",
    ],
)
def test_a_test_that_is_not_there_is_missed(wrong: str) -> None:
    assert not is_there(wrong)
