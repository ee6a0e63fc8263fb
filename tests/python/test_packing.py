"""pack and unpack: metadata come back, and what is no pack does no harm."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from command import ThinmetaCommand, as_json, fails
from corpus import FIXTURES, OTHER_TARGETS, THIN, Corpus
from killing import killed_before
from loops import loop_device
from ondisk import BLOCK
from thinmeta import _core

IMAGES = [*(f"thin/{name}" for name in THIN), *OTHER_TARGETS]
PEER = "1.1.0"
RECORDED: dict[str, Any] = json.loads((FIXTURES / "packed" / f"{PEER}.json").read_text())
HEADER_BYTES = 32


def blocks_of(content: bytes) -> list[bytes]:
    return [content[at : at + BLOCK] for at in range(0, len(content) // BLOCK * BLOCK, BLOCK)]


def only_metadata(content: bytes) -> bytes:
    """An image without the blocks that are of no kind."""
    return b"".join(
        block if _core.block_kind(block) else bytes(BLOCK) for block in blocks_of(content)
    )


def instructions(pack: bytes) -> bytes:
    """What is in a pack, without the compression."""
    out, at = [], HEADER_BYTES
    while at < len(pack):
        end = at + 8 + int.from_bytes(pack[at : at + 8], "little")
        out.append(zlib.decompress(pack[at + 8 : end]))
        at = end
    return b"".join(out)


@pytest.fixture
def image(corpus: Corpus) -> Path:
    return corpus["deleted"].meta


@pytest.fixture
def packed(image: Path, tmp_path: Path) -> Path:
    path = tmp_path / "pool.pack"
    thinmeta.pack(image, path)
    return path


@pytest.mark.parametrize("name", IMAGES)
def test_every_image_comes_back(corpus: Corpus, tmp_path: Path, name: str) -> None:
    """And 1.1.0 has read just these instructions, and made just this of them."""
    meta = corpus[name.removeprefix("thin/")].meta
    pack, out = tmp_path / "pack", tmp_path / "out"
    content = meta.read_bytes()
    wanted = only_metadata(content)
    done = thinmeta.pack(meta, pack)
    number = sum(any(block) for block in blocks_of(wanted))
    other = sum(any(block) for block in blocks_of(content)) - number
    blocks = len(content) // BLOCK
    assert done == thinmeta.PackedMetadata(blocks, number, other, pack.stat().st_size)
    assert thinmeta.unpack(pack, out) == thinmeta.UnpackedMetadata(blocks, number)
    assert out.read_bytes() == wanted
    assert meta.read_bytes() == content
    recorded = RECORDED["images"][name]
    assert hashlib.sha256(wanted).hexdigest() == recorded["unpacked"]
    said = hashlib.sha256(instructions(pack.read_bytes())).hexdigest()
    assert said == recorded["instructions"]


@pytest.mark.parametrize("path", sorted((FIXTURES / "packed").glob("*.pack")), ids=lambda p: p.stem)
def test_what_1_x_packed_is_unpacked(tmp_path: Path, path: Path) -> None:
    out = tmp_path / "out"
    thinmeta.unpack(path, out)
    name = path.stem.removesuffix(f"-{PEER}")
    (key,) = (key for key in RECORDED["images"] if key.endswith(f"/{name}"))
    found = hashlib.sha256(out.read_bytes()).hexdigest()
    assert found == RECORDED["images"][key]["unpacked"]


def test_a_damaged_block_is_left_out_and_counted(image: Path, tmp_path: Path) -> None:
    content = bytearray(image.read_bytes())
    content[9 * BLOCK + 100] ^= 1
    bad, pack, out = (tmp_path / name for name in ("bad", "pack", "out"))
    bad.write_bytes(content + b"more")  # not a whole block
    before = thinmeta.pack(image, pack)
    done = thinmeta.pack(bad, pack)
    assert (done.packed_blocks, done.left_out_blocks) == (before.packed_blocks - 1, 1)
    thinmeta.unpack(pack, out)
    assert blocks_of(out.read_bytes())[9] == bytes(BLOCK)
    # A repair finds the same where it was packed from and where it was unpacked.
    bad.write_bytes(content)
    plans = [thinmeta.plan_repair(path) for path in (bad, out)]
    assert plans[0].devices == plans[1].devices


def spoilt(whole: bytes, seed: int) -> bytes:
    """A pack that is cut, or has a few bits the other way round."""
    draw = random.Random(seed)
    if draw.random() < 0.4:
        return whole[: draw.randrange(len(whole))]
    content = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 8))):
        # Nothing proves the number of blocks, which has tests of its own.
        at = draw.choice(
            (draw.randrange(24), draw.randrange(32, 48), draw.randrange(32, len(whole)))
        )
        content[at] ^= 1 << draw.randrange(8)
    return bytes(content)


def test_a_spoilt_pack_is_one_error_and_nothing_is_there(packed: Path, tmp_path: Path) -> None:
    whole, out, bad = packed.read_bytes(), tmp_path / "out", tmp_path / "bad.pack"
    kinds = set()
    for seed in range(400):
        content = spoilt(whole, seed)
        if content == whole:
            continue
        bad.write_bytes(content)
        if len(content) == HEADER_BYTES:
            continue  # a pack of nothing
        with pytest.raises((thinmeta.StreamError, thinmeta.UnsupportedFormatError)) as raised:
            thinmeta.unpack(bad, out)
        assert str(bad) in str(raised.value)
        kinds.add(type(raised.value))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pack", "pool.pack"]
    assert len(kinds) == 2
    out.write_bytes(b"what was there")
    with pytest.raises(thinmeta.StreamError):
        thinmeta.unpack(bad, out)
    assert out.read_bytes() == b"what was there"


def bomb(blocks: int, plain: bytes, *, chunks: int = 1) -> bytes:
    chunk = zlib.compress(plain, 9)
    words = (0xA537A0AA6309EF77, 3, BLOCK, blocks)
    head = b"".join(word.to_bytes(8, "little") for word in words)
    return head + (len(chunk).to_bytes(8, "little") + chunk) * chunks


def test_no_pack_makes_a_lot_of_nothing(packed: Path, tmp_path: Path) -> None:
    """A small file that says to be large costs neither memory nor time."""
    plain = instructions(packed.read_bytes())
    bad, out = tmp_path / "bad.pack", tmp_path / "out"
    many = (1 << 26, 1 << 63, (1 << 64) - 1)
    huge = plain[:8] + b"\xa8" + b"\xff" * 8
    bombs = [
        bomb(1 << 26, plain[:8] + bytes(1 << 24)),
        bomb(1 << 26, plain * 30),
        bomb(1 << 26, plain, chunks=300),
        bomb(1 << 26, b"", chunks=100_000),
        bomb(100, b"", chunks=100_000),
        bomb(3, plain),
        *(bomb(blocks, huge) for blocks in many),
        bomb(1024, plain[:8] + b"\x50" * (1 << 24)),
        bomb(1024, plain)[:32] + b"\xff" * 8,
        bomb(0, plain),
    ]
    code = (
        "import resource, sys, thinmeta\n"
        "resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))\n"
        "for path in sys.argv[2:]:\n"
        "    try:\n"
        "        thinmeta.unpack(path, sys.argv[1])\n"
        "    except (thinmeta.StreamError, thinmeta.UnsupportedFormatError) as error:\n"
        "        print(error)\n"
    )
    paths = []
    for number, content in enumerate(bombs):
        paths.append(tmp_path / f"{number}.pack")
        paths[-1].write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", code, out, *paths],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(bombs)
    assert "comes twice" in done.stdout and "a chunk without a block" in done.stdout
    assert not out.exists() and not bad.exists()


def test_metadata_are_not_overwritten_unless_that_is_meant(
    image: Path, packed: Path, tmp_path: Path, corpus: Corpus
) -> None:
    out = tmp_path / "out"
    for name in ("sequential", "cache/cache-smq-clean", "era/era-basic"):
        content = corpus[name].meta.read_bytes()
        out.write_bytes(content)
        for call, source in ((thinmeta.pack, image), (thinmeta.unpack, packed)):
            with pytest.raises(thinmeta.AlreadyFormattedError, match="metadata here already"):
                call(source, out)
        assert out.read_bytes() == content
    thinmeta.unpack(packed, out, overwrite=True)
    assert out.read_bytes() == image.read_bytes()
    thinmeta.pack(image, out, overwrite=True)
    assert out.read_bytes() == packed.read_bytes()
    for call, source in ((thinmeta.pack, out), (thinmeta.unpack, packed)):
        with pytest.raises(thinmeta.UsageError, match="is the input"):
            call(source, source, overwrite=True)


def test_what_cannot_be_is_refused(image: Path, packed: Path, tmp_path: Path) -> None:
    nothing, out = tmp_path / "nothing", tmp_path / "out"
    nothing.write_bytes(b"")
    with pytest.raises(thinmeta.UsageError, match="0 blocks"):
        thinmeta.pack(nothing, out)
    nothing.write_bytes(b"abc" * BLOCK)
    with pytest.raises(thinmeta.UnsupportedFormatError, match="no block of it is metadata"):
        thinmeta.pack(nothing, out)
    with pytest.raises(thinmeta.UnsupportedFormatError, match="does not begin"):
        thinmeta.unpack(image, out)
    with pytest.raises(FileNotFoundError):
        thinmeta.pack(tmp_path / "none", out)
    with pytest.raises(FileNotFoundError):
        thinmeta.unpack(tmp_path / "none", out)
    with pytest.raises(FileNotFoundError):
        thinmeta.unpack(packed, tmp_path / "no" / "folder")
    with pytest.raises(IsADirectoryError):
        thinmeta.pack(image, tmp_path)
    with pytest.raises(thinmeta.UsageError, match="a file or a block device"):
        thinmeta.unpack(packed, "/dev/null")
    copy = tmp_path / "copy"
    copy.write_bytes(image.read_bytes())
    with thinmeta.open_pool(copy, mode="r+"), pytest.raises(thinmeta.DeviceInUseError):
        thinmeta.pack(copy, out)
    assert not out.exists()


def test_whoever_is_killed_leaves_the_old_file_or_the_new_one(
    image: Path, packed: Path, tmp_path: Path
) -> None:
    for call, source, result in (
        (thinmeta.pack, image, packed.read_bytes()),
        (thinmeta.unpack, packed, image.read_bytes()),
    ):
        out, step, seen = tmp_path / "out", 0, set()
        work = partial(call, source, out)
        while True:
            out.write_bytes(b"old")
            if not killed_before(step, work):
                break
            step += 1
            seen.add(out.read_bytes())
        assert out.read_bytes() == result
        assert step >= 3 and seen == {b"old", result}


def test_a_full_disk_leaves_nothing(packed: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    code = (
        "import resource, signal, sys, thinmeta\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "thinmeta.unpack(sys.argv[1], sys.argv[2])\n"
    )
    out = tmp_path / "new.img"
    done = subprocess.run(
        [sys.executable, "-c", code, packed, out], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"File too large" in done.stderr and str(out).encode() in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pool.pack"]


def test_a_device_is_filled_with_zeros_between_and_keeps_what_it_had_after_an_error(
    image: Path, packed: Path, tmp_path: Path
) -> None:
    content = image.read_bytes()
    backing, bad = tmp_path / "backing", tmp_path / "bad.pack"
    noise = b"\xa5" * (len(content) + 2 * BLOCK)
    backing.write_bytes(noise)
    bad.write_bytes(packed.read_bytes()[:-1])
    with loop_device(backing) as device:
        with pytest.raises(thinmeta.StreamError):
            thinmeta.unpack(bad, device)
        assert backing.read_bytes() == noise
        thinmeta.unpack(packed, device)
        with pytest.raises(thinmeta.AlreadyFormattedError):
            thinmeta.unpack(packed, device)
    # The superblock comes last: a test of `build` looks at the order of writes.
    assert backing.read_bytes() == content + noise[: 2 * BLOCK]
    backing.write_bytes(noise[: len(content) - BLOCK])
    with loop_device(backing) as device:
        with pytest.raises(thinmeta.NoSpaceError, match="nothing written"):
            thinmeta.unpack(packed, device)
        assert backing.read_bytes() == noise[: len(content) - BLOCK]


def test_a_pack_on_a_device_is_read_up_to_its_end(
    image: Path, packed: Path, tmp_path: Path
) -> None:
    backing, out = tmp_path / "backing", tmp_path / "out"
    backing.write_bytes(b"\xa5" * (1 << 20))
    with loop_device(backing) as device:
        thinmeta.pack(image, device)
        thinmeta.unpack(device, out)
    assert out.read_bytes() == image.read_bytes()
    # Zeros behind a pack are nothing, in a file as well; anything else is damage.
    longer = tmp_path / "longer.pack"
    longer.write_bytes(packed.read_bytes() + bytes(100_001))
    thinmeta.unpack(longer, out, overwrite=True)
    longer.write_bytes(packed.read_bytes() + bytes(100_000) + b"x")
    with pytest.raises(thinmeta.StreamError):
        thinmeta.unpack(longer, out, overwrite=True)
    assert out.read_bytes() == image.read_bytes()


def test_the_commands_say_what_they_did(
    command: ThinmetaCommand, image: Path, tmp_path: Path
) -> None:
    pack, out = tmp_path / "pool.pack", tmp_path / "out.img"
    said = as_json(command("pack", image, "-o", pack, "--json"))
    assert said["metadata"] == str(image) and said["left_out_blocks"] == 0
    assert said["packed_bytes"] == pack.stat().st_size
    assert said["metadata_bytes"] == image.stat().st_size
    said = as_json(command("unpack", "-i", pack, "-o", out, "--json"))
    assert said["unpacked_bytes"] == said["unpacked_blocks"] * BLOCK
    assert out.read_bytes() == image.read_bytes()
    fails(command("unpack", pack, "-o", out), 1, "--force replaces them")
    fails(command("pack", image, "-o", out), 1, "--force replaces them")
    run = command("unpack", pack, "-o", out, "-f")
    assert (run.returncode, run.stderr) == (0, "") and "4 MiB" in run.stdout
    run = command("pack", image, "-o", pack)
    assert run.returncode == 0 and "left out" not in run.stdout
    fails(command("pack", image), 2, "-o PACK is missing")
    fails(command("unpack", "-o", out), 2, "one PACK is needed")
    fails(command("unpack", image, "-o", pack), 1, "does not begin as packed metadata")
    for name in ("pack", "unpack"):
        page = command(name, "--help").stdout
        assert max(map(len, page.splitlines())) <= 90
        assert f"\n  {name} " in command("--help").stdout


def test_a_pack_goes_through_a_pipe(packed: Path, image: Path) -> None:
    words = [sys.executable, "-m", "thinmeta", "pack", str(image), "-o", "/dev/stdout"]
    done = subprocess.run(words, capture_output=True, check=True)
    assert done.stdout == packed.read_bytes()
    assert b"of metadata" in done.stderr
