"""Metadata made from XML: what it holds, what is shared, and what bad XML does."""

from __future__ import annotations

import fcntl
import gzip
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinmeta
from corpus import SHARED_DUMPS, THIN, Corpus
from histories import History
from loops import loop_device
from model import PoolModel
from oracles import NewerTools, ThinTools, newer_tools

#: Random pools; a long run has 500.
POOLS = int(os.environ.get("THINMETA_RESTORE_POOLS", "25"))
#: Random damages of XML.
DAMAGES = int(os.environ.get("THINMETA_RESTORE_DAMAGES", "1500"))

HEAD = (
    '<superblock uuid="" time="5" transaction="7" version="2" data_block_size="128" '
    'nr_data_blocks="1000">'
)
DEVICE = '<device dev_id="{}" mapped_blocks="1" transaction="0" creation_time="0" snap_time="1">'
SINGLE = '<single_mapping origin_block="{}" data_block="{}" time="0"/>'


@pytest.fixture(scope="module")
def newer() -> NewerTools | None:
    return newer_tools()


def dump(image: Path, *, shared: bool = False) -> bytes:
    out = image.with_suffix(".dumped")
    thinmeta.dump(image, out, shared=shared)
    return out.read_bytes()


def used(image: Path) -> int:
    with thinmeta.open_pool(image) as pool:
        return pool.superblock.metadata_space_map_root.nr_allocated


def restored(xml: bytes, image: Path) -> thinmeta.NewPool:
    listing = image.with_suffix(".xml")
    listing.write_bytes(xml)
    return thinmeta.restore(listing, image)


class Checks:
    """Checks by all generations; the newer one, which sleeps half a second, beside the tests."""

    def __init__(self, tools: ThinTools, newer: NewerTools | None) -> None:
        self._tools, self._newer = tools, newer
        self._running: list[tuple[Path, subprocess.Popen[bytes]]] = []

    def __call__(self, image: Path) -> None:
        assert thinmeta.check(image).is_clean
        assert self._tools.check(image) == 0
        if self._newer is not None:
            words = [str(self._newer.program), "thin_check", "-q", str(image)]
            pipe = subprocess.PIPE
            self._running.append((image, subprocess.Popen(words, stdout=pipe, stderr=pipe)))
        if len(self._running) > 20:
            self.finish(10)

    def finish(self, left: int = 0) -> None:
        while len(self._running) > left:
            image, process = self._running.pop(0)
            assert process.communicate() == (b"", b""), image
            assert process.returncode == 0, image


@pytest.fixture(scope="module")
def assert_sound(newer: NewerTools | None) -> Iterator[Checks]:
    checks = Checks(ThinTools(), newer)
    yield checks
    checks.finish()


@pytest.mark.parametrize("name", THIN)
def test_the_corpus_survives(
    corpus: Corpus, assert_sound: Checks, tmp_path: Path, name: str
) -> None:
    image = corpus[name].meta
    xml = dump_to(image, tmp_path / "whole", shared=False)
    parts = dump_to(image, tmp_path / "parts", shared=True)
    flat, shared = tmp_path / "flat.img", tmp_path / "shared.img"
    made = restored(xml, flat)
    restored(parts, shared)
    for each in (flat, shared):
        assert dump(each) == xml
        assert_sound(each)
        # Though nothing says what is shared. Full nodes are cut where shared ones begin.
        assert used(each) <= used(image) * 1.05 + 4
    with thinmeta.open_pool(image) as pool:
        assert made.devices == len(pool.devices)
        # A metadata snapshot keeps blocks that no device has any more; and one image leaks.
        if not pool.superblock.held_root and name != "metadata-full":
            assert made.data_blocks_used == pool.superblock.data_space_map_root.nr_allocated


def dump_to(image: Path, out: Path, *, shared: bool) -> bytes:
    thinmeta.dump(image, out, shared=shared)
    return out.read_bytes()


@pytest.mark.parametrize("name", SHARED_DUMPS)
def test_what_the_newer_thin_dump_printed_is_taken(
    corpus: Corpus, tmp_path: Path, name: str
) -> None:
    image = corpus[name]
    xml = image.dump_of("1.1.0")
    assert xml is not None
    assert b"<def" in xml
    out = tmp_path / "new.img"
    restored(xml, out)
    assert thinmeta.check(out).is_clean
    assert PoolModel.from_xml(dump(out)) == PoolModel.from_xml(
        dump_to(image.meta, out, shared=False)
    )


@pytest.mark.parametrize("seed", range(POOLS))
def test_random_pools_come_out_as_they_went_in(
    thin_tools: ThinTools,
    newer: NewerTools | None,
    assert_sound: Checks,
    tmp_path: Path,
    seed: int,
) -> None:
    image = tmp_path / "meta.img"
    history = History(image, seed)
    for _ in range(10):
        history.step()
    history.close()
    xml = dump(image)
    ours, theirs = tmp_path / "ours.img", tmp_path / "theirs.img"
    restored(xml, ours)
    assert dump(ours) == xml
    assert_sound(ours)
    thin_tools.restore(xml, theirs)
    assert thin_tools.dump(ours) == thin_tools.dump(theirs)
    if newer is not None:
        listing = tmp_path / "newer.xml"
        listing.write_bytes(newer.dump(image))
        thinmeta.restore(listing, ours)
        assert dump(ours) == xml
        with theirs.open("wb") as file:
            file.truncate(4 << 20)
        newer.run("thin_restore", "-i", listing, "-o", theirs).check_returncode()
        assert PoolModel.from_xml(newer.dump(ours)) == PoolModel.from_xml(newer.dump(theirs))
        assert used(ours) <= used(theirs) + 4


def test_numbers_can_be_overridden(tmp_path: Path) -> None:
    out = tmp_path / "new.img"
    listing = tmp_path / "pool.xml"
    listing.write_text(f"{HEAD}{DEVICE.format(1)}{SINGLE.format(4, 999)}</device></superblock>")
    made = thinmeta.restore(
        listing,
        out,
        transaction_id=2**64 - 1,
        data_block_size_sectors=256,
        data_blocks=5000,
        flags=1,
        size_bytes=1 << 20,
    )
    assert (made.metadata_blocks, made.devices, made.mapped_blocks) == (256, 1, 1)
    assert out.stat().st_size == 1 << 20
    with thinmeta.open_pool(out) as pool:
        superblock = pool.superblock
        assert (superblock.trans_id, superblock.data_block_size) == (2**64 - 1, 256)
        assert superblock.data_space_map_root.nr_blocks == 5000
        assert superblock.flags == 1
    with pytest.raises(thinmeta.XmlError, match="data block 999 is past the end: there are 10"):
        thinmeta.restore(listing, out, data_blocks=10)


def pool(body: str, head: str = HEAD) -> str:
    return f"{head}\n{body}\n</superblock>\n"


def as_text(content: bytes) -> str:
    """Bytes among text, which are written as they are."""
    return content.decode(errors="surrogateescape")


ONE = DEVICE.format(1)

#: What is wrong: the XML, where, and words of the message.
WRONG: dict[str, tuple[str, int, int, str]] = {
    "nothing": ("", 1, 1, "without a superblock"),
    "no XML": ("hello", 1, 1, "text"),
    "binary": ("\0" * 5000, 1, 1, "this is not XML: there are zero bytes"),
    "metadata": (
        "\0" * 32 + as_text((27022010).to_bytes(8, "little")) + "\0" * 5000,
        1,
        1,
        "this is metadata, not XML",
    ),
    "gzip": (as_text(gzip.compress(b"<superblock>")), 1, 1, "this is compressed (gzip), not XML"),
    "xz": (as_text(lzma.compress(b"<superblock>")), 1, 1, "this is compressed (xz), not XML"),
    "cut in a tag": (pool("")[:30], 1, 1, "not closed"),
    "cut between tags": (pool(f"{ONE}</device>")[:-14], 3, 1, "ends inside of <superblock>"),
    "cut in a device": (f"{HEAD}\n{ONE}\n", 3, 1, "ends inside of <device>"),
    "entities": (
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>\n' + pool(""),
        1,
        1,
        "document type",
    ),
    "an entity for a number": (
        pool(f'{ONE}<single_mapping origin_block="&#49;" data_block="1" time="0"/></device>'),
        2,
        len(ONE) + 1,
        "origin_block",
    ),
    "deep nesting": ("<a>" * 100_000, 1, 1, "before the superblock"),
    "deep devices": (HEAD + ONE * 1000, 1, len(HEAD) + len(ONE) + 1, "inside of another section"),
    "a tag in a mapping": (
        pool(ONE + SINGLE.format(1, 1).replace("/>", "><x/>")),
        2,
        len(ONE) + len(SINGLE.format(1, 1)),
        "inside of a mapping",
    ),
    "unknown tag": (pool("  <devise/>"), 2, 3, "an unknown tag <devise>"),
    "unknown attribute": (
        pool(ONE + '<ref name="x" nome="y"/></device>'),
        2,
        len(ONE) + 1,
        "has no attribute nome",
    ),
    "missing attribute": (pool(f"{ONE}\n <ref/></device>"), 3, 2, "lacks the attribute name"),
    "attribute twice": (
        pool(
            f'{ONE}\n<single_mapping time="0" time="0" origin_block="0" data_block="0"/></device>'
        ),
        3,
        1,
        "an attribute that comes twice",
    ),
    "no number": (
        pool(f"{ONE}\n{SINGLE.format('x', 1)}</device>"),
        3,
        1,
        "a whole number is expected",
    ),
    "a sign": (
        pool(f"{ONE}\n{SINGLE.format('-1', 1)}</device>"),
        3,
        1,
        'origin_block="-1": a whole number is expected',
    ),
    "no value": (pool(f"{ONE}\n<ref name/></device>"), 3, 1, "an attribute without a value"),
    "no quotes": (pool(f"{ONE}\n<ref name=x/></device>"), 3, 1, "not in quotes"),
    "no UTF-8 inside": (
        pool(f'{ONE}\n<ref name="\udcff"/></device>'),
        3,
        1,
        "not UTF-8",
    ),
    "beyond 64 bits": (pool(f"{ONE}\n{SINGLE.format(2**64, 1)}</device>"), 3, 1, "too large"),
    "the last block of all": (
        pool(f"{ONE}\n{SINGLE.format(2**64 - 1, 1)}</device>"),
        3,
        1,
        "past the last one",
    ),
    "time beyond 24 bits": (
        pool(f"{ONE}\n{SINGLE.format(1, 1).replace('0', str(1 << 24))}</device>"),
        3,
        1,
        "at most 16777215",
    ),
    "time beyond 32 bits": (
        pool(f"{ONE}\n{SINGLE.format(1, 1).replace('0', str(1 << 32))}</device>"),
        3,
        1,
        "too large",
    ),
    "overlap": (
        pool(
            f'{ONE}\n<range_mapping origin_begin="0" data_begin="0" length="10" time="0"/>'
            f"\n{SINGLE.format(9, 20)}</device>"
        ),
        4,
        1,
        "block 9 comes after block 9",
    ),
    "unordered": (
        pool(f"{ONE}{SINGLE.format(9, 1)}\n\n  {SINGLE.format(3, 2)}</device>"),
        4,
        3,
        "block 3 comes after block 9",
    ),
    "data past the end": (
        pool(f"{ONE}\n{SINGLE.format(9, 1000)}</device>"),
        3,
        1,
        "data block 1000 is past the end: there are 1000",
    ),
    "no blocks": (
        pool(f'{ONE}\n<range_mapping origin_begin="0" data_begin="0" length="0" time="0"/>'),
        3,
        1,
        "no blocks",
    ),
    "device twice": (pool(f"{ONE}</device>\n{ONE}</device>"), 3, 1, "device 1 comes twice"),
    "device beyond 24 bits": (pool(DEVICE.format(1 << 24)), 2, 1, "at most 16777215"),
    "ref to nothing": (pool(f'{ONE}\n<ref name="x"/></device>'), 3, 1, "no def of the name x"),
    "ref to itself": (
        pool('<def name="x">\n<ref name="x"/></def>'),
        3,
        1,
        "no def of the name x",
    ),
    "ref backwards": (
        pool(
            f'<def name="x">{SINGLE.format(5, 5)}</def>{ONE}{SINGLE.format(5, 5)}\n'
            '<ref name="x"/></device>'
        ),
        3,
        1,
        "def x begins with block 5 and comes after block 5",
    ),
    "def twice": (pool('<def name="x"></def>\n<def name="x"></def>'), 3, 1, "def x comes twice"),
    "def in a device": (pool(f'{ONE}\n<def name="x"/></device>'), 3, 1, "inside of another"),
    "a mapping of nobody": (pool(SINGLE.format(1, 1)), 2, 1, "outside of a device"),
    "text": (pool(f"{ONE}</device>hello"), 2, len(ONE) + 10, "text between the tags"),
    "text at the end": (pool("") + "junk", 4, 1, "text between the tags"),
    "cdata": (pool("<![CDATA[x]]>"), 2, 1, "text between the tags"),
    "instruction": (pool("<?php ?>"), 2, 1, "processing instruction"),
    "two superblocks": (pool("") + pool(""), 4, 1, "a second superblock"),
    "wrong end": (pool(f"{ONE}\n</def>"), 3, 1, "</def>"),
    "version": (pool("", HEAD.replace('version="2"', 'version="3"')), 1, 1, "of version 3"),
    "block size": (pool("", HEAD.replace('"128"', '"100"')), 1, 1, "data blocks have 128 to"),
    "a tag that never ends": ('<superblock uuid="' + "x" * 3_000_000, 1, 1, "end of markup"),
    "a comment that never ends": ("<!-- " + "x" * 3_000_000, 1, 1, "end of markup"),
    "bytes that are no UTF-8": ("\udcff\udcfe", 1, 1, ""),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_xml_is_located_and_leaves_the_output_alone(tmp_path: Path, what: str) -> None:
    text, line, column, words = WRONG[what]
    listing, out = tmp_path / "pool.xml", tmp_path / "new.img"
    listing.write_bytes(text.encode(errors="surrogateescape"))
    out.write_bytes(b"old" * 100_000)
    with pytest.raises(thinmeta.XmlError) as caught:
        thinmeta.restore(listing, out)
    error = caught.value
    assert (error.line, error.column) == (line, column), error
    assert words in error.reason
    assert str(error) == f"{listing}:{line}:{column}: {error.reason}"
    assert out.read_bytes() == b"old" * 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.img", "pool.xml"]


def test_spelling_that_no_tool_uses_is_xml_all_the_same(tmp_path: Path) -> None:
    """Long space before a tag included: it is not kept in memory."""
    text = (
        "\ufeff<?xml version='1.0'?><!-- a pool -->\r\n"
        + HEAD.replace('"', "'")
        + " " * 2_000_000
        + "<def name = 'a &amp; b' ><range_mapping time='1' length='3' data_begin='7' "
        "origin_begin='+2' /></def>"
        + ONE
        + "<!-- x --><ref name='a &amp; b'></ref>"
        + SINGLE.format("010", 3).replace("/>", " ></single_mapping>")
        + "</device>"
        + DEVICE.format(2).replace(">", "/>")
        + "</superblock>\n\n"
    )
    out = tmp_path / "new.img"
    restored(text.encode(), out)
    found = PoolModel.from_xml(dump(out))
    assert found.devices[1].mappings == {2: (7, 1), 3: (8, 1), 4: (9, 1), 10: (3, 0)}
    assert found.devices[2].mappings == {}


def test_damaged_xml_is_an_error_or_a_sound_pool(corpus: Corpus, tmp_path: Path) -> None:
    images = [corpus[name].meta for name in ("snaps-300", "discards", "kernel-6.12")]
    texts = [
        dump_to(image, tmp_path / "text", shared=shared)
        for image in images
        for shared in (False, True)
    ]
    draw = random.Random(5)
    listing, out = tmp_path / "pool.xml", tmp_path / "new.img"
    failed = 0
    for _ in range(DAMAGES):
        text = bytearray(draw.choice(texts)[: draw.choice((2000, 20_000, 300_000))])
        text += b"</device></superblock>" if draw.random() < 0.8 else b""
        for _ in range(draw.randint(0, 3)):
            at = draw.randrange(len(text))
            kind = draw.randrange(4)
            if kind == 0:
                text[at] = draw.randrange(256)
            elif kind == 1:
                del text[at : at + draw.randrange(1, 80)]
            elif kind == 2:
                text[at:at] = text[at : at + draw.randrange(1, 80)]
            else:
                other = draw.randrange(len(text))
                text[at:at] = text[other : other + draw.randrange(1, 300)]
        listing.write_bytes(text)
        out.unlink(missing_ok=True)
        try:
            thinmeta.restore(listing, out)
        except thinmeta.XmlError as error:
            line = error.line
            assert 1 <= line <= text.count(b"\n") + 1
            assert not out.exists()
            failed += 1
        else:
            assert thinmeta.check(out).findings == ()
    assert DAMAGES * 0.3 < failed < DAMAGES


# ---- outputs ----


@pytest.fixture
def listing(corpus: Corpus, tmp_path: Path) -> Path:
    path = tmp_path / "pool.xml"
    thinmeta.dump(corpus["random-60k"].meta, path)
    return path


def test_a_new_file_has_room_and_one_that_is_there_keeps_its_size(
    listing: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new.img"
    made = thinmeta.restore(listing, out)
    assert out.stat().st_size == made.metadata_blocks * 4096
    assert made.metadata_blocks >= 2 * made.metadata_blocks_used - 4
    out.write_bytes(bytes(8 << 20))
    out.chmod(0o640)
    made = thinmeta.restore(listing, out)
    assert (out.stat().st_size, made.metadata_blocks) == (8 << 20, 2048)
    assert out.stat().st_mode & 0o777 == 0o640
    assert thinmeta.check(out).findings == ()


def test_what_is_too_small_is_refused_and_stays_as_it_was(listing: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.img"
    content = b"precious" * (64 << 10 >> 3)
    out.write_bytes(content)
    with pytest.raises(thinmeta.NoSpaceError, match="16 blocks"):
        thinmeta.restore(listing, out)
    assert out.read_bytes() == content
    with pytest.raises(thinmeta.UsageError, match="1 to 4161600 blocks"):
        thinmeta.restore(listing, out, size_bytes=100)


def test_the_input_is_no_output(listing: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(listing)
    before = listing.read_bytes()
    for out in (listing, other):
        with pytest.raises(thinmeta.UsageError, match="is the input"):
            thinmeta.restore(listing, out)
    assert listing.read_bytes() == before


def test_what_is_in_use_and_what_is_no_file_are_refused(listing: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.img"
    out.write_bytes(bytes(4 << 20))
    with out.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(thinmeta.DeviceInUseError):
            thinmeta.restore(listing, out)
    for wrong in (tmp_path, Path("/dev/null")):
        with pytest.raises((thinmeta.UsageError, OSError)):
            thinmeta.restore(listing, wrong)
    with pytest.raises(FileNotFoundError):
        thinmeta.restore(listing, tmp_path / "no" / "folder")
    with pytest.raises(FileNotFoundError):
        thinmeta.restore(tmp_path / "no.xml", out)
    assert out.read_bytes() == bytes(4 << 20)


def test_a_full_disk_leaves_nothing(listing: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    out = tmp_path / "new.img"
    code = (
        "import resource, signal, sys, thinmeta\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "thinmeta.restore(sys.argv[1], sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(listing), str(out)], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"File too large" in done.stderr
    assert str(out).encode() in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pool.xml"]


def test_a_block_device_gets_it_and_keeps_what_it_had_after_an_error(
    listing: Path, tmp_path: Path
) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xa5" * (4 << 20))
    with loop_device(backing) as device:
        bad = tmp_path / "bad.xml"
        bad.write_bytes(listing.read_bytes()[:-30])
        with pytest.raises(thinmeta.XmlError):
            thinmeta.restore(bad, device)
        assert backing.read_bytes() == b"\xa5" * (4 << 20)
        made = thinmeta.restore(listing, device)
        assert made.metadata_blocks == 1024
        assert thinmeta.check(device).findings == ()
        with pytest.raises(thinmeta.UsageError, match="block device"):
            thinmeta.restore(listing, device, size_bytes=1 << 20)
        # What backs a device is not replaced under it.
        with pytest.raises(thinmeta.DeviceInUseError):
            thinmeta.restore(listing, backing)
    assert PoolModel.from_xml(dump(backing)) == PoolModel.from_xml(listing.read_bytes())


def test_a_pipe_is_read_and_whoever_is_killed_leaves_the_old_file(
    listing: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new.img"
    text = listing.read_bytes()
    words = [sys.executable, "-m", "thinmeta", "restore", "-", "-o", str(out), "--json"]
    whole = subprocess.run(words, input=text, capture_output=True, check=True)
    assert b'"devices": 1' in whole.stdout
    before = out.read_bytes()
    for sent in (10, len(text) // 3, len(text) - 20):
        for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            with subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process:
                assert process.stdin is not None
                process.stdin.write(text[:sent])
                process.stdin.flush()
                time.sleep(0.2)
                process.send_signal(end)
                # It ends though the pipe is open: it waits for no more input.
                assert process.wait(10) != 0
            assert out.read_bytes() == before
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["new.img", "pool.xml"]
