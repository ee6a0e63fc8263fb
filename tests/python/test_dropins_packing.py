"""thin_metadata_pack and _unpack, beside the peer: either reads what the other wrote."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest

from corpus import OTHER_TARGETS, THIN, Corpus
from dropins import DropIns
from histories import History
from ondisk import BLOCK, seal
from oracles import NewerTools, missing, newer_tools
from test_dropins_peers import damaged
from test_packing import only_metadata

#: Of an image that so many blocks do not divide, 1.1.0 loses as many, or all.
GROUP_BYTES = 128 * BLOCK
POOLS = int(os.environ.get("THINMETA_PACK_POOLS", "4"))


@pytest.fixture(scope="module")
def newer() -> NewerTools:
    found = newer_tools()
    if found is None:
        missing("the newer tools are not there: make peers")
    return found


class Both:
    """One image, packed and unpacked by either of us."""

    def __init__(self, newer: NewerTools, drop_in: DropIns, folder: Path) -> None:
        self._newer, self._drop_in, self._folder = newer, drop_in, folder

    def run(self, who: str, tool: str, source: Path, out: Path) -> None:
        words = ["-f", "-i", str(source), "-o", str(out)]
        if who == "ours":
            ran = self._drop_in(tool, *words)
            assert (ran.status, ran.out, ran.err) == (0, b"", "")
        else:
            self._newer.run(tool, *words).check_returncode()

    def assert_alike(self, image: Path, wanted: bytes) -> None:
        for packer in ("ours", "theirs"):
            pack = self._folder / f"{packer}.pack"
            self.run(packer, "thin_metadata_pack", image, pack)
            back = []
            for unpacker in ("ours", "theirs"):
                out = self._folder / "out"
                out.unlink(missing_ok=True)
                self.run(unpacker, "thin_metadata_unpack", pack, out)
                back.append(out.read_bytes())
            assert back[0] == back[1], packer
            if packer == "ours" or len(wanted) % GROUP_BYTES == 0:
                assert back[0] == wanted, packer


@pytest.fixture
def both(newer: NewerTools, drop_in: DropIns, tmp_path: Path) -> Both:
    return Both(newer, drop_in, tmp_path)


@pytest.mark.parametrize("name", [*THIN, *OTHER_TARGETS])
def test_either_reads_what_the_other_wrote(both: Both, corpus: Corpus, name: str) -> None:
    meta = corpus[name].meta
    both.assert_alike(meta, only_metadata(meta.read_bytes()))


@pytest.mark.parametrize("seed", range(POOLS))
def test_random_pools_come_back_from_either(
    both: Both, newer: NewerTools, tmp_path: Path, seed: int
) -> None:
    image = tmp_path / "meta.img"
    history = History(image, seed + 5000, metadata_blocks=12 * 128)
    for _ in range(12):
        history.step()
    history.close()
    content = image.read_bytes()
    both.assert_alike(image, only_metadata(content))
    # What was unpacked is the same pool, for 1.x as well.
    out = tmp_path / "out"
    assert newer.run("thin_check", "-q", out).returncode == 0
    assert newer.dump(out) == newer.dump(image)
    spoilt = damaged(content, random.Random(seed))
    image.write_bytes(spoilt)
    both.assert_alike(image, only_metadata(spoilt))


@pytest.mark.parametrize("seed", range(POOLS))
def test_nodes_with_anything_in_them_come_back_from_either(
    both: Both, tmp_path: Path, seed: int
) -> None:
    """Blocks with the checksum of a node, whose header and content are what they are."""
    draw = random.Random(seed)
    blocks = [bytes(BLOCK)]
    for at in range(1, 128):
        # 1.x gives up where a node says to have more than a block holds; internal ones have
        # values of 8 bytes.
        size = draw.choice((8, 8, 8, 4, 16, 24, 1, 40))
        most = draw.choice((4064 // (8 + size), 4064 // (8 + size) // 3 * 3, 1))
        flags, used = draw.choice((1, 2)) if size == 8 else 2, draw.randrange(most + 1)
        head = b"".join(
            number.to_bytes(width, "little")
            for number, width in (
                (0, 4), (flags, 4), (at, 8), (used, 4), (most, 4), (size, 4), (0, 4),
            )
        )  # fmt: skip
        number, words = 0, []
        for _ in range((BLOCK - len(head)) // 8):
            step = draw.choice((0, 1, 1, 1, 15, 16, 256, -1, -300, 1 << 24, 1 << 40, None))
            number = draw.getrandbits(64) if step is None else (number + step) % (1 << 64)
            words.append(number.to_bytes(8, "little"))
        blocks.append(seal(head + b"".join(words), "btree node"))
    image = tmp_path / "meta.img"
    image.write_bytes(b"".join(blocks))
    both.assert_alike(image, image.read_bytes())


@pytest.fixture
def pack(drop_in: DropIns, corpus: Corpus, tmp_path: Path) -> Path:
    path = tmp_path / "pack"
    assert drop_in("thin_metadata_pack", "-i", corpus["deleted"].meta, "-o", path).status == 0
    return path


def test_both_end_alike(
    newer: NewerTools, drop_in: DropIns, corpus: Corpus, tmp_path: Path, pack: Path
) -> None:
    """Whatever is wrong, with the statuses of 1.x where those are asked for."""
    meta = corpus["deleted"].meta
    whole = pack.read_bytes()
    files = {
        "meta": meta.read_bytes(),
        "pack": whole,
        "cut": whole[: len(whole) // 2],
        "zeros": bytes(1 << 20),
        "noise": b"x" * 100_000,
        "one": bytes(BLOCK),
        "behind": whole + bytes(1000),
        "none": None,
        "nothing": b"",
    }
    for tool in ("thin_metadata_pack", "thin_metadata_unpack"):
        for name, content in files.items():
            source = tmp_path / name
            if content is not None:
                source.write_bytes(content)
            for words in ([], ["-f"], ["-f", "-f"], ["-q"], ["word"], ["--force=1"]):
                statuses = []
                for who in ("ours", "theirs"):
                    out = tmp_path / f"out-{who}"
                    out.unlink(missing_ok=True)
                    line = ["-i", str(source), f"--output={out}", *words]
                    if who == "ours":
                        statuses.append(drop_in(tool, *line, compat="1.x").status)
                    else:
                        statuses.append(newer.run(tool, *line).returncode)
                assert statuses[0] == statuses[1], (tool, name, words)
                if statuses[0]:
                    assert not (tmp_path / "out-ours").exists()
        for words in (["-i", str(meta)], ["-o", str(tmp_path / "x")], []):
            assert drop_in(tool, *words, compat="1.x").status == 2
            assert newer.run(tool, *words).returncode == 2


# Answers to 1.x's question whether metadata are to be replaced, and what it then did.
@pytest.mark.parametrize(
    ("answer", "goes_on"),
    [("y\n", True), ("Y\n", True), ("yes\n", True), ("y \n", True), ("n\n", False), ("", False)],
)
def test_metadata_are_replaced_only_after_a_question(
    drop_in: DropIns,
    monkeypatch: pytest.MonkeyPatch,
    corpus: Corpus,
    tmp_path: Path,
    pack: Path,
    answer: str,
    goes_on: bool,
) -> None:
    meta, out = corpus["deleted"].meta, tmp_path / "out"
    for tool, source, result in (
        ("thin_metadata_unpack", pack, meta.read_bytes()),
        ("thin_metadata_pack", meta, pack.read_bytes()),
    ):
        before = corpus["sequential"].meta.read_bytes()
        out.write_bytes(before)
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        ran = drop_in(tool, "-i", source, "-o", out)
        assert (ran.status, ran.out) == (0 if goes_on else 1, b"")
        assert "[y/n]" in ran.err
        assert out.read_bytes() == (result if goes_on else before)
        assert drop_in(tool, "-f", "-i", source, "-o", out).err == ""
        assert out.read_bytes() == result
