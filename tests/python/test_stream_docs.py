"""What docs/stream.md and docs/bookmarks.md say is what is written."""

import io
import lzma
import re
from pathlib import Path

import pytest

from streams import BLOCK, Source
from test_docs import DOCS, REPOSITORY, run
from thinmeta import stream
from thinmeta._core import Blake3, crc32c
from thinmeta.bookmark import Bookmark
from thinmeta.stream.format import DATA, HEAD_BYTES, UNMAP, Totals, encode_head
from thinmeta.stream.token import Token

PAGE = DOCS / "stream.md"
WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


def table(page: Path, first_field: str) -> dict[str, tuple[int, int]]:
    """Offset and bytes of the fields of the table that begins with this one."""
    rows = re.findall(r"^\| (\d+) \| ([\w ]+?) \| (\w+) \|", page.read_text(), re.MULTILINE)
    names = [(int(offset), kind, name) for offset, kind, name in rows]
    begin = next(at for at, row in enumerate(names) if row[0] == 0 and row[2] == first_field)
    found: dict[str, tuple[int, int]] = {}
    end = 0
    for offset, kind, name in names[begin:]:
        if offset != end:
            break
        size = WIDTHS.get(kind) or int(kind.removesuffix(" bytes")) if kind[0] != "j" else 0
        found[name] = (offset, size)
        end = offset + size
    return found


def field(data: bytes, fields: dict[str, tuple[int, int]], name: str) -> int:
    offset, size = fields[name]
    return int.from_bytes(data[offset : offset + size], "little")


def dumped() -> bytes:
    lines = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} )+) *\|", PAGE.read_text(), re.MULTILINE)
    data = b"".join(bytes.fromhex(line) for _, line in lines)
    assert [int(at, 16) for at, _ in lines] == [*range(0, len(data), 16)]
    return data


def tiny(folder: Path) -> Source:
    source = Source(folder)
    source.size = 2 * BLOCK
    source.create(1)
    source.write(1, (BLOCK, b"hello " * 10_000))
    source.snapshot(2)
    return source


def test_the_stream_that_is_explained_is_one(tmp_path: Path) -> None:
    data = dumped()
    summary = stream.verify(io.BytesIO(data))
    made = tiny(tmp_path).send(2)
    assert stream.verify(io.BytesIO(made)).header.identity == summary.header.identity
    stream.receive(io.BytesIO(data), tmp_path / "copy.img")
    content = (b"hello " * 10_000).ljust(BLOCK, b"\0")
    assert (tmp_path / "copy.img").read_bytes() == bytes(BLOCK) + content
    text = PAGE.read_text()
    for place in re.findall(r"^\| 0x([0-9a-f]{3}) \| (?:UNMAP|DATA|CHECKPOINT|END)", text, re.M):
        at = int(place, 16)
        length = field(data[at:], table(PAGE, "kind"), "stored")
        crc = crc32c(data[at : at + 24], data[at + HEAD_BYTES : at + HEAD_BYTES + length])
        assert field(data[at:], table(PAGE, "kind"), "crc") == crc


def test_records_lie_as_the_tables_say() -> None:
    record, end = table(PAGE, "kind"), table(PAGE, "data_records")
    assert list(record) == ["kind", "codec", "zero", "stored", "place", "length", "crc"]
    head = encode_head(DATA, 0x1122334455, 3, b"abc", 0)
    assert len(head) == sum(record["crc"]) == HEAD_BYTES
    assert field(head, record, "kind") == DATA and field(head, record, "stored") == 3
    assert field(head, record, "place") == 0x1122334455 and field(head, record, "length") == 3
    assert field(head, record, "crc") == crc32c(head[:24] + b"abc")
    assert field(encode_head(UNMAP, 1, 1 << 40), record, "length") == 1 << 40
    totals = Totals(1, 2, 3, 4, 5, b"d" * 32).pack()
    assert len(totals) == sum(end["digest"])
    names = ["data_records", "unmap_records", "checkpoints", "data_bytes", "unmap_bytes"]
    assert [field(totals, end, name) for name in names] == [1, 2, 3, 4, 5]


def test_a_token_lies_as_the_table_says() -> None:
    from base64 import urlsafe_b64decode

    fields = {
        name: place
        for name, place in table_of_tokens().items()
        if name in ("version", "flags", "digest", "base_digest", "size_bytes", "offset_bytes")
    }
    text = str(Token("ab" * 32, 1000, True, "cd" * 32, 999))
    raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert len(raw) == 86
    assert raw[fields["digest"][0]] == 0xAB and raw[fields["base_digest"][0]] == 0xCD
    names = ("version", "flags", "size_bytes", "offset_bytes")
    assert [field(raw, fields, name) for name in names] == [1, 3, 1000, 999]
    assert int.from_bytes(raw[82:], "little") == crc32c(raw[:82])


def table_of_tokens() -> dict[str, tuple[int, int]]:
    return table(PAGE, "version")


def test_the_digest_of_mappings_is_made_as_the_page_says(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    with source.open() as pool:
        parts = [b"thinmeta mappings 1\0", (128).to_bytes(4, "little")]
        for run in pool.devices[2].runs():
            numbers = (run.virtual_begin, run.data_begin, run.length_blocks)
            parts += [number.to_bytes(8, "little") for number in numbers]
            parts.append(run.time.to_bytes(4, "little"))
        bookmark = Bookmark.save(pool.devices[2], tmp_path / "b", size_bytes=source.size)
    assert bookmark.digest == Blake3(b"".join(parts)).digest()


def test_a_bookmark_lies_as_the_table_says(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    with source.open() as pool:
        path = tmp_path / "b"
        bookmark = Bookmark.save(pool.devices[2], path, size_bytes=source.size, pool_uuid="LVM-abc")
    data, fields = path.read_bytes(), table(DOCS / "bookmarks.md", "magic")
    assert data[:16] == b"thinmeta-bookmrk" and sum(fields["crc"]) == 256
    assert field(data, fields, "version") == 1 and field(data, fields, "head_bytes") == 256
    for name in ("device_id", "creation_time", "pool_time", "transaction_id", "mapped_blocks"):
        assert field(data, fields, name) == getattr(bookmark, name), name
    assert field(data, fields, "data_block_size") == 128
    assert field(data, fields, "flags") == 1
    assert field(data, fields, "size_bytes") == source.size
    assert field(data, fields, "runs") == 1
    assert data[80:112] == bookmark.digest
    assert data[112:240] == b"LVM-abc".ljust(128, b"\0")
    assert field(data, fields, "payload_bytes") == len(data) - 256
    assert field(data, fields, "payload_crc") == crc32c(data[256:])
    assert field(data, fields, "crc") == crc32c(data[:252])
    from thinmeta._core import decompress

    numbers = bytearray(4)
    decompress(data[256:], numbers)
    with source.open() as pool:
        (run,) = pool.devices[2].runs()
    assert list(numbers) == [run.virtual_begin, 1, 2 * run.data_begin, 2 * run.time]


@pytest.mark.parametrize("name", ["stream.md", "bookmarks.md"])
def test_the_programs_of_the_pages_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for image in ("metadata.img", "data.img"):
        packed = (REPOSITORY / "examples" / "pool" / f"{image}.xz").read_bytes()
        (tmp_path / image).write_bytes(lzma.decompress(packed))
    assert run(DOCS / name, tmp_path, monkeypatch) == 1
