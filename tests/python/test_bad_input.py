"""Every kind of bad input has its own answer, from the API and from the command."""

import gzip
import json
import lzma
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from command import ThinmetaCommand
from corpus import FIXTURES, OTHER_TARGETS, Corpus
from ondisk import BLOCK, patched, seal, u64

COMMANDS: dict[str, list[str]] = {
    "ls": ["ls", "META"],
    "check": ["check", "META"],
    "dump": ["dump", "META"],
    "delta": ["delta", "META", "0", "1"],
    "extract": ["extract", "META", "DATA", "0", "-o", "OUT"],
    "delete": ["delete", "META", "0"],
}


@dataclass(frozen=True)
class Bad:
    """A kind of bad metadata: how to make it, and what is to be answered."""

    make: Callable[[Path, Corpus], None]
    error: type[Exception] | tuple[type[Exception], ...]
    words: str
    status: int = 1


def content(data: bytes) -> Callable[[Path, Corpus], None]:
    def make(path: Path, corpus: Corpus) -> None:
        path.write_bytes(data)

    return make


def spoiled(change: Callable[[bytes], bytes]) -> Callable[[Path, Corpus], None]:
    """A sound image whose block 0 was changed."""

    def make(path: Path, corpus: Corpus) -> None:
        image = corpus["metadata-snap"].meta.read_bytes()
        path.write_bytes(change(image[:BLOCK]) + image[BLOCK:])

    return make


def resealed(offset: int, value: bytes) -> Callable[[Path, Corpus], None]:
    return spoiled(lambda block: seal(patched(block, offset, value), "thin superblock"))


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def ext4(path: Path, corpus: Corpus) -> None:
    path.write_bytes(lzma.decompress((FIXTURES / "other/ext4/image.xz").read_bytes()))


def xml(path: Path, corpus: Corpus) -> None:
    listing = corpus["discards"].dump_of("0.9.0")
    assert listing is not None
    path.write_bytes(listing[: len(listing) // BLOCK * BLOCK])


def whole_xml(path: Path, corpus: Corpus) -> None:
    listing = corpus["discards"].dump_of("0.9.0")
    assert listing is not None
    assert len(listing) % BLOCK
    path.write_bytes(listing)


def zipped(path: Path, corpus: Corpus) -> None:
    packed = gzip.compress(corpus["snaps-300"].meta.read_bytes())
    path.write_bytes(packed.ljust(-(-len(packed) // BLOCK) * BLOCK, b"\0"))


def xz(path: Path, corpus: Corpus) -> None:
    packed = (FIXTURES / "thin/snaps-300/meta.img.xz").read_bytes()
    path.write_bytes(packed.ljust(-(-len(packed) // BLOCK) * BLOCK, b"\0"))


def other_target(name: str) -> Callable[[Path, Corpus], None]:
    def make(path: Path, corpus: Corpus) -> None:
        shutil.copyfile(corpus[name].meta, path)

    return make


UNSUPPORTED = thinmeta.UnsupportedFormatError
DAMAGED = thinmeta.DamagedBlockError

BAD: dict[str, Bad] = {
    "empty": Bad(content(b""), UNSUPPORTED, "empty"),
    "shorter than a block": Bad(content(b"\1" * 4095), UNSUPPORTED, "short|4095"),
    "odd size": Bad(content(b"\1" * (3 * BLOCK + 1)), UNSUPPORTED, "12289|multiple|whole"),
    "all zero": Bad(content(bytes(1 << 20)), thinmeta.NotFormattedError, "not formatted"),
    "xml": Bad(xml, UNSUPPORTED, "(?i)xml"),
    "xml of any size": Bad(whole_xml, UNSUPPORTED, "(?i)xml"),
    "short xml": Bad(
        content(b'<superblock uuid="" time="0">\n</superblock>\n'), UNSUPPORTED, "(?i)xml"
    ),
    "short gzip": Bad(content(gzip.compress(b"notes")), UNSUPPORTED, "(?i)gzip"),
    "gzip": Bad(zipped, UNSUPPORTED, "(?i)gzip"),
    "xz": Bad(xz, UNSUPPORTED, "(?i)xz"),
    "ext4": Bad(ext4, UNSUPPORTED, "(?i)ext[234]"),
    **{
        name: Bad(other_target(name), UNSUPPORTED, name.partition("/")[0]) for name in OTHER_TARGETS
    },
    "noise": Bad(content(bytes(range(1, 256)) * 4096), (UNSUPPORTED, DAMAGED), "."),
    "bad checksum": Bad(spoiled(lambda b: patched(b, 3000, b"x")), DAMAGED, "checksum"),
    "wrong location": Bad(resealed(8, u64(9)), DAMAGED, "block 0.*found 9, expected 0"),
    "unknown version": Bad(resealed(40, u32(7)), UNSUPPORTED, "version.*7"),
    "incompatible feature": Bad(resealed(360, u32(4)), UNSUPPORTED, "incompat.*4"),
    "data block size 0": Bad(
        resealed(336, u32(0)), (DAMAGED, UNSUPPORTED), "data_block_size|block size"
    ),
    "data block size 100": Bad(resealed(336, u32(100)), (DAMAGED, UNSUPPORTED), "100"),
    "metadata block size": Bad(resealed(340, u32(16)), (DAMAGED, UNSUPPORTED), "16"),
}


@pytest.fixture(params=BAD)
def bad(request: pytest.FixtureRequest) -> Bad:
    return BAD[request.param]


@pytest.fixture
def meta(bad: Bad, corpus: Corpus, tmp_path: Path) -> Path:
    path = tmp_path / "meta.img"
    bad.make(path, corpus)
    return path


def test_opening_it_raises_the_error_that_says_so(bad: Bad, meta: Path) -> None:
    with pytest.raises(bad.error, match=bad.words):
        thinmeta.open_pool(meta)


def test_checking_it_says_so_too(bad: Bad, meta: Path) -> None:
    if bad.error in (UNSUPPORTED, thinmeta.NotFormattedError):
        with pytest.raises(bad.error, match=bad.words):
            thinmeta.check(meta)
        return
    try:
        report = thinmeta.check(meta)
    except UNSUPPORTED:
        return
    assert not report.is_clean
    assert any(finding.severity == "fatal" for finding in report.findings)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_in_one_line_with_its_status(
    name: str, bad: Bad, meta: Path, tmp_path: Path, command: ThinmetaCommand
) -> None:
    (tmp_path / "data.img").write_bytes(bytes(65536))
    before = sorted(tmp_path.iterdir())
    done = command(*fill(COMMANDS[name], meta))

    assert done.returncode == bad.status
    assert "Traceback" not in done.stdout + done.stderr
    if name != "check" or done.stderr:
        assert one_line(done).startswith("thinmeta: ")
    assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


def fill(words: list[str], meta: Path) -> list[str]:
    places = {"META": meta, "DATA": meta.with_name("data.img"), "OUT": meta.with_name("out.img")}
    return [str(places.get(word, word)) for word in words]


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_damage_carries_block_check_found_and_expected(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "meta.img"
    resealed(8, u64(9))(path, corpus)
    with pytest.raises(DAMAGED) as caught:
        thinmeta.open_pool(path)

    error = caught.value
    assert (error.block, error.found, error.expected) == (0, 9, 0)
    assert "superblock" in error.validator
    assert "location" in error.check


def test_a_wrong_checksum_carries_both_values(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "meta.img"
    good = corpus["metadata-snap"].meta.read_bytes()[:BLOCK]
    bent = patched(good, 3000, b"x")
    spoiled(lambda block: bent)(path, corpus)
    with pytest.raises(DAMAGED) as caught:
        thinmeta.open_pool(path)

    assert caught.value.found == int.from_bytes(good[:4], "little")
    assert caught.value.expected == int.from_bytes(seal(bent, "thin superblock")[:4], "little")


def test_a_damaged_node_names_its_block_and_nothing_wrong_is_listed(
    corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["sequential"]
    path = tmp_path / "meta.img"
    root = image.facts["superblock"]["data_mapping_root"]
    raw = bytearray(image.meta.read_bytes())
    raw[root * BLOCK + 1000] ^= 1
    path.write_bytes(raw)

    with thinmeta.open_pool(path) as pool:
        with pytest.raises(DAMAGED) as caught:
            list(pool.devices[0].runs())
    assert caught.value.block == root
    assert caught.value.check == "checksum"
    report = thinmeta.check(path)
    assert {finding.block for finding in report.findings if finding.code == "node-damaged"} == {
        root
    }


@pytest.mark.parametrize("use", [thinmeta.open_pool, thinmeta.check])
def test_no_such_file_a_directory_and_no_permission_are_plain_os_errors(
    use: Callable[[Path], Any], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        use(tmp_path / "none")
    assert missing.value.filename == str(tmp_path / "none")
    with pytest.raises(IsADirectoryError) as folder:
        use(tmp_path)
    assert folder.value.filename == str(tmp_path)
    assert not isinstance(missing.value, thinmeta.ThinmetaError)


#: Root may read everything, and nobody else may read root's interpreter: so imports
#: come first, by a failure of the same kind, and then rights are given up.
GIVE_UP_RIGHTS = """
import os, sys

def give_up_rights():
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
"""

USE_WITHOUT_RIGHTS = """
import thinmeta

use = getattr(thinmeta, sys.argv[1])
readable, unreadable = sys.argv[2], sys.argv[3:]
use(readable)
give_up_rights()
use(readable)
for path in unreadable:
    try:
        use(path)
    except PermissionError as error:
        print(error.filename, isinstance(error, thinmeta.ThinmetaError))
"""

RUN_WITHOUT_RIGHTS = """
from thinmeta.cli import main

meta, words = sys.argv[1], sys.argv[2:]
assert main([word.replace(meta, "/dev/null/meta") for word in words]) == 3
give_up_rights()
sys.exit(main(words))
"""


@pytest.fixture
def unreadable(corpus: Corpus) -> Iterator[list[Path]]:
    """A file that everybody may read, one that nobody may, and one in such a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        closed = folder / "closed"
        closed.mkdir()
        paths = [folder / "readable", folder / "meta.img", closed / "meta.img"]
        for path in paths:
            shutil.copyfile(corpus["pair-zeroing-2"].meta, path)
            path.chmod(0o644)
        folder.chmod(0o755)
        paths[1].chmod(0)
        closed.chmod(0)
        yield paths
        closed.chmod(0o700)


def python(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", GIVE_UP_RIGHTS + script, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("use", ["open_pool", "check"])
def test_no_permission_is_a_plain_os_error(use: str, unreadable: list[Path]) -> None:
    done = python(USE_WITHOUT_RIGHTS, use, *unreadable)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{path} False" for path in unreadable[1:]]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_permission_is_status_3(name: str, unreadable: list[Path]) -> None:
    for path in unreadable[1:]:
        done = python(RUN_WITHOUT_RIGHTS, path, *fill(COMMANDS[name], path))
        assert (done.returncode, done.stdout) == (3, "")
        first, second = done.stderr.splitlines()
        assert first == "thinmeta: /dev/null/meta: Not a directory"
        assert second == f"thinmeta: {path}: Permission denied"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_that_cannot_be_read_is_status_3(
    name: str, tmp_path: Path, command: ThinmetaCommand
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path, words in [(tmp_path / "none", "no such file"), (folder, "directory")]:
        done = command(*fill(COMMANDS[name], path))
        assert done.returncode == 3
        assert one_line(done).startswith("thinmeta: ")
        assert words in done.stderr.lower()
        assert str(path) in done.stderr


def test_a_metadata_snapshot_that_is_not_held_is_its_own_error(
    corpus: Corpus, command: ThinmetaCommand
) -> None:
    meta = corpus["sequential"].meta
    with pytest.raises(thinmeta.NoMetadataSnapshotError, match="no metadata snapshot"):
        thinmeta.open_pool(meta, metadata_snapshot="held")
    done = command("ls", "-m", meta)
    assert done.returncode == 1
    assert "no metadata snapshot" in one_line(done)


@pytest.mark.parametrize("block", [1, 5, 1023, 1024, 10**6, 2**40])
def test_a_metadata_snapshot_at_a_block_that_is_none_is_refused(
    corpus: Corpus, command: ThinmetaCommand, block: int
) -> None:
    meta = corpus["sequential"].meta
    with pytest.raises(thinmeta.ThinmetaError):
        thinmeta.open_pool(meta, metadata_snapshot=block)
    done = command("ls", f"--metadata-snapshot={block}", meta)
    assert done.returncode == 1
    one_line(done)


@pytest.mark.parametrize("value", [True, False, 1.5, b"held"])
def test_a_metadata_snapshot_that_is_no_number_is_a_type_error(corpus: Corpus, value: Any) -> None:
    with pytest.raises(TypeError):
        thinmeta.open_pool(corpus["metadata-snap"].meta, metadata_snapshot=value)


def test_a_device_that_is_not_there_is_a_key_error_that_reads_well(
    corpus: Corpus, command: ThinmetaCommand
) -> None:
    meta = corpus["pair-zeroing-2"].meta
    with thinmeta.open_pool(meta) as pool:
        for absent in (4, 99, 2**24 - 1, 2**24, 2**64 - 1, -1):
            assert absent not in pool.devices
            with pytest.raises(KeyError) as caught:
                pool.devices[absent]
            assert isinstance(caught.value, thinmeta.NoSuchDeviceError)
            assert caught.value.device_id == absent
            assert str(caught.value) == f"the pool has no thin device {absent}"
        with pytest.raises(thinmeta.NoSuchDeviceError):
            pool.delta(0, 99)
    done = command("delta", meta, 0, 99)
    assert done.returncode != 0
    assert "no thin device 99" in one_line(done)


def test_devices_of_two_pools_cannot_be_compared(corpus: Corpus) -> None:
    meta = corpus["pair-zeroing-2"].meta
    with thinmeta.open_pool(meta) as one, thinmeta.open_pool(meta) as other:
        with pytest.raises(thinmeta.UsageError):
            one.delta(one.devices[0], other.devices[0])
        assert len(one.delta(one.devices[0], 2)) > 0


def test_a_closed_pool_answers_nothing(corpus: Corpus) -> None:
    pool = thinmeta.open_pool(corpus["pair-zeroing-2"].meta)
    device = pool.devices[0]
    pool.close()
    pool.close()
    assert pool.closed
    uses: list[Callable[[], Any]] = [
        lambda: pool.superblock,
        lambda: pool.data_space,
        lambda: list(pool.devices),
        lambda: pool.devices[0],
        lambda: pool.delta(0, 1),
        lambda: device.find(0),
        lambda: list(device.runs()),
        lambda: device.mappings().to_numpy(),
        lambda: thinmeta.check(pool),
    ]
    for use in uses:
        with pytest.raises(thinmeta.UsageError):
            use()


def test_a_data_image_too_short_leaves_nothing_under_the_final_name(
    corpus: Corpus, tmp_path: Path, command: ThinmetaCommand
) -> None:
    image = corpus["pair-zeroing-2"]
    short = tmp_path / "short.img"
    short.write_bytes(image.data.read_bytes()[: 100 * 65536])
    out = tmp_path / "out.img"
    beyond = sorted(d for d, _ in image.model.devices[0].mappings.values() if d >= 100)
    done = command("extract", image.meta, short, 0, "-o", out, "--size", 160 * 65536)

    assert done.returncode in (1, 3)
    assert any(str(block) in one_line(done) for block in beyond)
    assert list(tmp_path.iterdir()) == [short]


def test_a_pipe_closed_by_its_reader_is_quiet_and_status_141(
    corpus: Corpus, command: ThinmetaCommand
) -> None:
    for words in (
        ["dump", corpus["random-60k"].meta],
        ["dump", "--format", "jsonl", corpus["random-60k"].meta],
    ):
        process = subprocess.Popen(
            command.argv(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(timeout=60) == 141


def test_head_of_a_listing_is_quiet(corpus: Corpus, command: ThinmetaCommand) -> None:
    dump = " ".join(command.argv("dump", corpus["random-60k"].meta))
    done = subprocess.run(
        ["bash", "-c", f"{dump} | head -2; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "141"


@pytest.mark.parametrize(
    "words",
    [
        [], ["nonsense"], ["ls"], ["ls", "--nonsense", "META"], ["delta", "META", "0"],
        ["delta", "META", "zero", "1"], ["dump", "--format", "yaml", "META"],
        ["extract", "META", "DATA", "0"], ["ls", "--metadata-snapshot=no", "META"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_status_2(
    corpus: Corpus, tmp_path: Path, command: ThinmetaCommand, words: list[str]
) -> None:
    meta = tmp_path / "meta.img"
    shutil.copyfile(corpus["pair-zeroing-2"].meta, meta)
    done = command(*fill(words, meta))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "thinmeta" in done.stderr
    assert "Traceback" not in done.stderr


def test_damage_in_json_is_json(corpus: Corpus, tmp_path: Path, command: ThinmetaCommand) -> None:
    path = tmp_path / "meta.img"
    spoiled(lambda block: patched(block, 3000, b"x"))(path, corpus)
    done = command("check", "--json", path)

    assert done.returncode == 1
    report = json.loads(done.stdout)
    codes = [finding["code"] for finding in report["findings"]]
    assert codes == ["superblock-damaged"]
