"""What docs/backup.md claims: its programs run, and objects are as it says, byte by byte."""

import json
import lzma
import re
import struct
from pathlib import Path

import pytest

import thinmeta.bookmark
from backups import World
from test_docs import DOCS, REPOSITORY, run
from thinmeta import _core
from thinmeta.backup import Repository


def test_the_programs_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for image in ("metadata.img", "data.img"):
        packed = (REPOSITORY / "examples" / "pool" / f"{image}.xz").read_bytes()
        (tmp_path / image).write_bytes(lzma.decompress(packed))
    assert run(DOCS / "backup.md", tmp_path, monkeypatch) == 2


def blake3(data: bytes | bytearray) -> str:
    return _core.Blake3(data).digest().hex()


def document(path: Path) -> dict[str, object]:
    raw = path.read_bytes()
    found = re.fullmatch(rb'\{"blake3":"([0-9a-f]{64})","value":(.*)\}\n', raw, re.DOTALL)
    assert found is not None and blake3(found[2]) == found[1].decode()
    value: dict[str, object] = json.loads(found[2])
    assert value["version"] == 1
    return value


def pieces_of_packs(repository: Path) -> dict[bytes, bytes]:
    """Every piece by its hash, out of all packs."""
    pieces = {}
    for path in (repository / "packs").glob("*/*"):
        data = path.read_bytes()
        count, crc, magic = struct.unpack("<II8s", data[-16:])
        table = data[-16 - 44 * count : -16]
        assert magic == b"thmpack1" and _core.crc32c(table) == crc
        assert path.name == blake3(table) and path.parent.name == path.name[:2]
        for at in range(0, len(table), 44):
            hash_, offset, stored, length = struct.unpack_from("<32sIII", table, at)
            piece = bytearray(data[offset : offset + stored])
            if stored != length:
                packed, piece = piece, bytearray(length)
                _core.decompress(packed, piece)
            assert blake3(piece) == hash_.hex()
            pieces[hash_] = bytes(piece)
    return pieces


def pieces_of_index(repository: Path) -> dict[bytes, tuple[str, int, int, int]]:
    found = {}
    for path in (repository / "index").iterdir():
        data = path.read_bytes()
        assert data[-32:].hex() == path.name == blake3(data[:-32])
        magic, packs, zero, entries = struct.unpack_from("<8sIIQ", data)
        assert (magic, zero) == (b"thmindx1", 0)
        names = [data[24 + 32 * at :][:32].hex() for at in range(packs)]
        body = data[24 + 32 * packs : -32]
        assert len(body) == 48 * entries
        hashes = []
        for at in range(0, len(body), 48):
            hash_, pack, offset, stored, length = struct.unpack_from("<32sIIII", body, at)
            found[hash_] = names[pack], offset, stored, length
            hashes.append(hash_)
        assert hashes == sorted(set(hashes))
    return found


def content(repository: Path, manifest: dict[str, object], pieces: dict[bytes, bytes]) -> bytes:
    """A generation, put together from its own manifest by what the page says."""
    identity, segments = manifest["identity"], manifest["segments"]
    piece_bytes, segment_bytes = manifest["piece_bytes"], manifest["segment_bytes"]
    assert isinstance(identity, dict) and isinstance(segments, list)
    assert isinstance(piece_bytes, int) and isinstance(segment_bytes, int)
    volume = bytearray(identity["size_bytes"])
    for number, name, data_bytes in segments:
        data = (repository / "segments" / name).read_bytes()
        assert blake3(data) == name
        magic, count, stored = struct.unpack_from("<8sII", data)
        assert magic == b"thmsegm1"
        positions = bytearray(data[16 : 16 + stored])
        if stored != 12 * count:
            packed, positions = positions, bytearray(12 * count)
            _core.decompress(packed, positions)
        offsets = struct.unpack_from(f"<{count}Q", positions)
        lengths = struct.unpack_from(f"<{count}I", positions, 8 * count)
        hashes = data[16 + stored :]
        assert len(hashes) == 32 * count and sum(lengths) == data_bytes
        for at, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
            assert offset // segment_bytes == number and offset % piece_bytes == 0
            piece = pieces[hashes[32 * at : 32 * at + 32]]
            assert len(piece) == length <= piece_bytes
            volume[offset : offset + length] = piece
    return bytes(volume)


@pytest.mark.parametrize("sectors", [128, 2176, 4096])
def test_a_generation_is_put_together_by_what_the_page_says(sectors: int, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    repository = Repository.init(folder)
    wanted = {}
    with World(tmp_path, 5, sectors=sectors, mib=16) as world:
        for _ in range(4):
            world.step()
            world.write(0, b"log line\n" * 20_000)
            made = world.back_up(repository)
            wanted[made.name] = world.shown()
    assert document(folder / "config.json")["id"] == repository.id
    pieces = pieces_of_packs(folder)
    assert set(pieces_of_index(folder)) == set(pieces)
    for name, shown in wanted.items():
        manifest = document(folder / "generations" / f"{name}.json")
        assert manifest["name"] == name and re.fullmatch(r"\d{8}-[0-9a-f]{16}", name)
        assert content(folder, manifest, pieces) == shown
        bookmark = folder / "bookmarks" / str(manifest["bookmark"])
        assert blake3(bookmark.read_bytes()) == bookmark.name
        found = thinmeta.bookmark.Bookmark.open(bookmark)
        assert isinstance(manifest["identity"], dict)
        assert found.digest.hex() == manifest["identity"]["digest"]


def test_the_page_says_how_long_pieces_and_parts_are() -> None:
    from thinmeta.backup.plan import piece_bytes_for
    from thinmeta.backup.segments import segment_bytes_for

    for units in (*range(1, 200), 1 << 14):
        block = units << 16
        piece, part = piece_bytes_for(block), segment_bytes_for(block)
        assert piece % (64 << 10) == 0 and piece <= 1 << 20 and block % piece == 0
        assert not any(
            block % larger == 0 for larger in range(piece + (64 << 10), (1 << 20) + 1, 64 << 10)
        )
        assert part % block == 0 and (part <= 256 << 20 or part == block)
        assert part + block > 256 << 20
