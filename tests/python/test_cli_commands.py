"""The commands say what is in a pool, for people and for programs."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand, as_json, fails
from corpus import THIN, Corpus

READING = ["ls", "check", "dump", "delta", "extract", "stat"]
CHANGING = [
    "create",
    "snapshot",
    "delete",
    "discard",
    "grow",
    "set-transaction-id",
    "reserve-snapshot",
    "release-snapshot",
    "edit",
]
COMMANDS = [*READING, *CHANGING]


def test_the_version(command: ThinmetaCommand) -> None:
    for word in ("--version", "-V"):
        run = command(word)
        assert run.returncode == 0
        assert run.stdout == f"thinmeta {thinmeta.__version__}\n"


def test_help_names_every_command_and_each_has_an_example(command: ThinmetaCommand) -> None:
    top = command("--help")
    assert top.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in top.stdout
        page = command(name, "--help")
        assert page.returncode == 0
        assert page.stdout == command("help", name).stdout == command(name, "-h").stdout
        assert f"Usage: thinmeta {name} " in page.stdout
        assert f"\nExamples\n  thinmeta {name} " in page.stdout
        kind = "--metadata-snapshot" if name in READING else "--dry-run"
        for option in ("--json", kind, "--help"):
            assert option in page.stdout
        assert max(map(len, page.stdout.splitlines())) <= 90


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(name: str) -> None:
    file = name.replace("-", "_")
    module = __import__(f"thinmeta.cli.{file}", fromlist=["HELP", "OPTIONS"])
    for option in module.OPTIONS:
        assert f"--{option.long}" in module.HELP
        assert not option.short or f"-{option.short}, --{option.long}" in module.HELP


def test_without_a_command_the_help_is_on_stderr(command: ThinmetaCommand) -> None:
    run = command()
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == command("--help").stdout


def test_wrong_usage_is_status_2(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["deleted"].meta
    fails(command("chek", meta), 2, "did you mean 'check'")
    fails(command("--verison"), 2, "did you mean '--version'")
    fails(command("ls"), 2, "META is missing")
    fails(command("ls", meta, "-o", "dev,mappd"), 2, "did you mean 'mapped'")
    fails(command("ls", meta, "-o", ","), 2, "names no column")
    fails(command("ls", meta, "--units", "miles"), 2, "human, bytes, sectors, blocks")
    fails(command("ls", meta, "--bytes", "--units=blocks"), 2, "exclude each other")
    fails(command("dump", meta, "--format", "yaml"), 2, "xml, human, jsonl")
    fails(command("dump", meta, "--json", "--format", "xml"), 2, "exclude each other")
    fails(command("delta", meta, "0"), 2, "RIGHT is missing")
    fails(command("delta", meta, "0", "x"), 2, "RIGHT must be a number")
    fails(command("extract", meta, meta, "0"), 2, "-o OUT is missing")
    fails(command("check", meta, "-m", "42"), 2, "one word too many")
    fails(command("ls", "--dry-run", meta), 2, "no option '--dry-run'")
    fails(command("delete", "-m", meta, "0"), 2, "no option '-m'")
    fails(command("create", meta), 2, "ID is missing")
    fails(command("create", meta, "1", "--overwrite"), 2, "say --pool, too")
    fails(command("create", "--pool", meta, "1"), 2, "one word too many")
    fails(command("create", "--pool", meta), 2, "needs --data-block-size")
    pool = ("create", "--pool", "--data-blocks=100", meta, "--data-block-size")
    for size in ("0", "32K", "65537", "100K", "2GiB"):
        fails(command(*pool, size), 2, "a multiple of 64K up to 1GiB")
    fails(command("snapshot", meta, "0"), 2, "ID is missing")
    fails(command("delete", meta, "16777216"), 2, "0 to 16777215")
    fails(command("discard", meta, "0", "5", "4"), 2, "before BEGIN")
    fails(command("discard", meta, "0", "0", "1K"), 2, "END must be a number")
    fails(command("grow", meta), 2, "say --data-blocks N")
    fails(command("set-transaction-id", meta, "0", 2**64), 2, "NEW must be below 2^64")
    fails(command("edit", meta), 2, "SCRIPT is missing")


def test_what_cannot_be_opened_is_status_3(command: ThinmetaCommand, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for name in ("ls", "check", "dump"):
        fails(command(name, absent), 3, f"{absent}: No such file or directory")
        fails(command(name, tmp_path), 3, f"{tmp_path}: Is a directory")


def test_what_is_no_pool_is_status_1(command: ThinmetaCommand, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"x" * 100, bytes(4096), b"<superblock/>" * 1000):
        path.write_bytes(content)
        for name in ("ls", "check", "dump"):
            fails(command(name, path), 1, str(path))


def test_what_the_pool_does_not_have_is_status_1(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["sequential"].meta
    fails(command("delta", meta, "0", "77"), 1, "no thin device 77")
    fails(command("dump", meta, "--dev-id", "77"), 1, "no thin device 77")
    fails(command("ls", "-m", meta), 1, "no metadata snapshot")


def test_a_name_that_is_no_utf_8_is_printed_as_it_is(
    command: ThinmetaCommand, tmp_path: Path
) -> None:
    name = bytes(tmp_path) + b"/\xff"
    run = subprocess.run([*command.argv("check"), name], capture_output=True, check=False)
    assert run.returncode == 3
    assert name in run.stderr


@pytest.mark.parametrize("name", THIN)
def test_ls_shows_what_the_pool_has(command: ThinmetaCommand, corpus: Corpus, name: str) -> None:
    image = corpus[name]
    with thinmeta.open_pool(image.meta) as pool:
        devices = list(pool.devices.values())
        size = pool.superblock.data_block_size_bytes
    answer = as_json(command("ls", "--json", image.meta))
    assert answer["data_block_size_bytes"] == size
    assert answer["devices"] == [
        {
            "device_id": device.id,
            "mapped_blocks": device.mapped_blocks,
            "mapped_sectors": device.mapped_blocks * size // 512,
            "mapped_bytes": device.mapped_blocks * size,
            "transaction_id": device.transaction_id,
            "creation_time": device.creation_time,
            "snapshotted_time": device.snapshotted_time,
        }
        for device in devices
    ]
    table = command("ls", "--bytes", image.meta).stdout.splitlines()
    assert table[0].split() == ["DEV", "MAPPED", "CREATE_TIME", "SNAP_TIME"]
    assert [[int(cell) for cell in line.split()] for line in table[1:]] == [
        [device.id, device.mapped_blocks * size, device.creation_time, device.snapshotted_time]
        for device in devices
    ]


def test_ls_columns(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["pair-zeroing-1"].meta
    heads = {
        "all": "DEV MAPPED EXCLUSIVE SHARED HIGHEST TRANSACTION CREATE_TIME SNAP_TIME",
        "+shared": "DEV MAPPED CREATE_TIME SNAP_TIME SHARED",
        "mapped,dev": "MAPPED DEV",
        "DEV, dev ,exclusive": "DEV EXCLUSIVE",
    }
    for columns, head in heads.items():
        run = command("ls", "-o", columns, meta)
        assert run.stdout.splitlines()[0].split() == head.split()
    table = command("ls", "-o", "dev,exclusive,shared,mapped", "--units", "blocks", meta)
    rows = [[int(cell) for cell in line.split()] for line in table.stdout.splitlines()[1:]]
    assert all(exclusive + shared == mapped for _, exclusive, shared, mapped in rows)
    assert rows == [[0, 0, 97, 97], [1, 40, 0, 40], [2, 0, 97, 97]]
    assert "6.1 MiB" in command("ls", meta).stdout


def test_ls_of_an_empty_pool_says_so_beside_the_table(
    command: ThinmetaCommand, corpus: Corpus
) -> None:
    run = command("ls", corpus["empty"].meta)
    assert run.returncode == 0
    assert run.stdout.count("\n") == 1
    assert "no thin devices" in run.stderr
    assert as_json(command("ls", "--json", corpus["empty"].meta))["devices"] == []


def test_the_metadata_snapshot_is_another_view(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["pair-zeroing-2"].meta
    block = corpus["pair-zeroing-2"].facts["superblock"]["held_root"]
    held = as_json(command("ls", "--json", "-m", meta))
    assert held["metadata_snapshot"] == "held"
    assert [device["device_id"] for device in held["devices"]] == [0, 1, 2]
    for words in ([f"-m{block}"], [f"-m={block}"], [f"--metadata-snapshot={block}"]):
        other = as_json(command("ls", "--json", *words, meta))
        assert other["metadata_snapshot"] == block
        assert other["devices"] == held["devices"]
    live = as_json(command("ls", "--json", meta))
    assert [device["device_id"] for device in live["devices"]] == [0, 1, 2, 3]


def test_ls_says_when_a_metadata_snapshot_keeps_what_is_exclusive(
    command: ThinmetaCommand, corpus: Corpus
) -> None:
    held, not_held = corpus["pair-zeroing-2"].meta, corpus["pair-zeroing-1"].meta
    for words in (["-o", "all"], ["-o", "+exclusive", "-m"], ["--json", "-o", "exclusive"]):
        run = command("ls", *words, held)
        assert run.returncode == 0
        assert run.stderr.startswith("thinmeta: the pool holds a metadata snapshot: ")
        assert run.stderr.count("\n") == 1
    assert command("ls", "-o", "all", not_held).stderr == ""
    assert command("ls", held).stderr == command("ls", "-o", "shared", held).stderr == ""
    for meta, is_held in ((held, True), (not_held, False)):
        assert as_json(command("ls", "--json", meta))["metadata_snapshot_held"] is is_held
    assert as_json(command("ls", "--json", "-m", held))["metadata_snapshot_held"] is True


def test_check_of_a_sound_pool(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["snap-chain"].meta
    run = command("check", meta)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("CLEAN: nothing is wrong (")
    assert run.stdout.count("\n") == 1
    quiet = command("check", "-q", meta)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    answer = as_json(command("check", "--json", meta))
    assert answer["clean"] is True
    assert answer["findings"] == []
    assert answer["scope"] == "all"


def test_check_says_what_it_looked_at(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["snap-chain"].meta
    only, skip = "--super-block-only", "--skip-mappings"
    assert "nothing else was looked at" in command("check", only, meta).stdout
    assert "mappings were not looked at" in command("check", skip, meta).stdout
    assert as_json(command("check", only, "--json", meta))["scope"] == "superblock"
    assert as_json(command("check", skip, "--json", meta))["scope"] == "without_mappings"
    fails(command("check", only, skip, meta), 2, "exclude each other")


def test_check_of_a_leak_is_status_1(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["metadata-full"].meta
    run = command("check", meta)
    assert (run.returncode, run.stderr) == (1, "")
    assert run.stdout.splitlines()[-1].startswith("NOT CLEAN: 1 problem, none fatal")
    quiet = command("check", "-q", meta)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (1, "", "")
    answer = json.loads(command("check", "--json", meta).stdout)
    report = thinmeta.check(meta)
    assert [each["code"] for each in answer["findings"]] == [each.code for each in report.findings]
    assert answer["clean"] is report.is_clean is False


def test_check_of_the_flag_alone_is_clean_with_a_note(
    command: ThinmetaCommand, corpus: Corpus
) -> None:
    run = command("check", corpus["needs-check"].meta)
    assert run.returncode == 0
    assert run.stdout.startswith("info: ")
    assert "CLEAN" in run.stdout and "1 note above" in run.stdout


def test_delta_lists_ranges_and_a_total(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["pair-zeroing-2"].meta
    with thinmeta.open_pool(meta) as pool:
        delta = pool.delta(0, 2)
        merged, size = delta.merged(), delta.data_block_size_bytes
        assert delta.changed_bytes == sum(length for _, _, length in merged) * size
    *lines, kinds, total = command("delta", meta, "0", "2").stdout.splitlines()
    assert kinds.split(", ") == ["1.4 MiB changed", "1 MiB left_only", "640 KiB right_only"]
    assert lines[0].split() == ["KIND", "BEGIN_BYTES", "LENGTH_BYTES", "BEGIN_BLOCK", "BLOCKS"]
    assert [line.split() for line in lines[1:]] == [
        [kind, str(begin * size), str(length * size), str(begin), str(length)]
        for kind, begin, length in merged
    ]
    assert f"({delta.changed_bytes} bytes," in total
    answer = as_json(command("delta", "--json", meta, "0", "2"))
    assert answer["ranges"] == [
        {
            "kind": kind,
            "begin_bytes": begin * size,
            "length_bytes": length * size,
            "begin_blocks": begin,
            "length_blocks": length,
        }
        for kind, begin, length in merged
    ]
    assert answer["totals"]["all_differences_bytes"] == delta.changed_bytes
    assert "same_bytes" not in answer["totals"]


def test_delta_with_same_covers_everything_mapped(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["pair-zeroing-2"].meta
    answer = as_json(command("delta", "--same", "--json", meta, "0", "2"))
    blocks = dict.fromkeys(("changed", "left_only", "right_only", "same"), 0)
    for part in answer["ranges"]:
        blocks[part["kind"]] += part["length_blocks"]
    assert answer["totals"] == {
        "all_differences_bytes": (sum(blocks.values()) - blocks["same"]) * 65536,
        "all_differences_blocks": sum(blocks.values()) - blocks["same"],
        **{f"{kind}_{unit}": count * factor for kind, count in blocks.items()
           for unit, factor in (("bytes", 65536), ("blocks", 1))},
    }  # fmt: skip
    with thinmeta.open_pool(meta) as pool:
        left, right = pool.devices[0].mapped_blocks, pool.devices[2].mapped_blocks
    assert blocks["changed"] + blocks["same"] + blocks["left_only"] == left
    assert blocks["changed"] + blocks["same"] + blocks["right_only"] == right


def test_a_volume_does_not_differ_from_itself(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["deleted"].meta
    assert command("delta", meta, "2", "2").stdout == "total: no difference\n"
    answer = as_json(command("delta", "--json", meta, "2", "2"))
    assert answer["ranges"] == []
    assert set(answer["totals"].values()) == {0}


def test_extract_gives_the_bytes_that_the_kernel_gave(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["pair-zeroing-1"]
    reported = image.facts["kernel_reported"]
    for device_id, sha256 in reported["contents"].items():
        sectors = reported["devices"][device_id]["sectors"]
        out = tmp_path / f"{device_id}.img"
        words = ("extract", image.meta, image.data, device_id, f"--size={sectors}s", "-o", out)
        run = command(*words)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout == f"{sha256}  {out}\n"
        assert hashlib.sha256(out.read_bytes()).hexdigest() == sha256
        assert out.stat().st_blocks * 512 <= out.stat().st_size
        subprocess.run(["sha256sum", "-c", "--quiet"], input=run.stdout, text=True, check=True)
        answer = as_json(command(*words, "--json"))
        assert answer["sha256"] == sha256
        assert answer["size_bytes"] == sectors * 512 == out.stat().st_size
        assert answer["size_source"] == "given"


def test_extract_says_that_it_guessed_the_size(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["pair-zeroing-1"]
    words = ("extract", image.meta, image.data, "0", "-o", tmp_path / "out")
    run = command(*words)
    assert run.returncode == 0
    assert "was guessed" in run.stderr and run.stderr.count("\n") == 1
    answer = json.loads(command(*words, "--json").stdout)
    assert answer["size_source"] == "guessed"
    assert answer["size_bytes"] == (tmp_path / "out").stat().st_size


def test_extract_to_stdout_prints_the_checksum_beside_it(
    command: ThinmetaCommand, corpus: Corpus
) -> None:
    image = corpus["pair-zeroing-1"]
    sha256 = image.facts["kernel_reported"]["contents"]["1"]
    for out in ("-", "/dev/stdout"):
        words = command.argv("extract", image.meta, image.data, "1", "-o", out, "--size=10240s")
        run = subprocess.run(words, capture_output=True, check=True)
        assert hashlib.sha256(run.stdout).hexdigest() == sha256
        assert run.stderr.decode() == f"{sha256}  {out}\n"


def test_extract_shows_the_external_origin_where_nothing_was_written(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["pair-external"]
    reported = image.facts["kernel_reported"]
    origin = tmp_path / "origin"
    sectors = reported["external_origin"]["sectors"]
    origin.write_bytes(image.unpacked("ext").read_bytes()[: sectors * 512])
    for device_id in map(str, reported["external_origin"]["devices"]):
        size = f"{reported['devices'][device_id]['sectors']}s"
        words = (image.meta, image.data, device_id, "--size", size, "--external-origin", origin)
        run = command("extract", *words, "-o", tmp_path / "out")
        assert run.returncode == 0, run.stderr
        assert run.stdout.split()[0] == reported["contents"][device_id]
    fails(command("extract", *words, "-o", origin), 2, "is the input")


def test_a_data_image_that_is_too_short_leaves_nothing_behind(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["pair-zeroing-1"]
    short = tmp_path / "short"
    short.write_bytes(image.data.read_bytes()[: 20 * 65536])
    run = command("extract", image.meta, short, "0", "-o", tmp_path / "out", "--size=20504s")
    assert run.returncode in (1, 3)
    assert run.stderr.startswith("thinmeta: ") and run.stderr.count("\n") == 1
    assert "block" in run.stderr
    assert run.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["short"]
