"""Every form of every option that the peers take; what they do with it, where they can run."""

import subprocess
from pathlib import Path

import pytest

from corpus import Corpus
from dropins import DropIns
from oracles import NewerTools, ThinTools, newer_tools
from thinmeta.cli import main

HELD = 42  # the metadata snapshot of the image of that name
SNAPSHOT = [
    "-m",
    "--metadata-snap",
    "--metadata-snapshot",
    f"-m{HELD}",
    f"-m={HELD}",
    f"--metadata-snap={HELD}",
    f"--metadata-snapshot={HELD}",
    f"-m {HELD}",
    f"--metadata-snap {HELD}",
]

READING = [
    "thin_check",
    "thin_dump",
    "thin_dump -f human_readable",
    "thin_ls",
    "thin_ls --no-headers",
    "thin_delta --thin1 0 --thin2 1",
    "thin_delta --verbose --snap1 0 --snap2 1",
    "thin_rmap --region 0..90",
]


def same(drop_in: DropIns, meta: Path, *lines: str) -> bytes:
    """What command lines print that mean the same; META is the image."""
    outs = set()
    for line in lines:
        ran = drop_in(line.replace("META", str(meta)))
        assert ran.status == 0, (line, ran.err)
        outs.add(ran.out)
    assert len(outs) == 1
    return outs.pop()


@pytest.mark.parametrize("line", READING)
def test_a_metadata_snapshot_is_asked_for_in_many_ways(
    drop_in: DropIns, corpus: Corpus, line: str
) -> None:
    meta = corpus["metadata-snap"].meta
    held = same(drop_in, meta, *(f"{line} {form} META" for form in SNAPSHOT))
    if line.startswith(("thin_dump", "thin_ls")):
        assert held != drop_in(line, meta).out
    # Another block than the one that is held is no reason to read that.
    for block in (0, 12, 999999):
        ran = drop_in(f"{line} -m{block}", meta)
        assert (ran.status, ran.err.count("\n")) == (1, 1)


def test_a_number_behind_m_is_the_device_if_there_is_no_other(
    drop_in: DropIns, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "42").symlink_to(corpus["metadata-snap"].meta)
    assert drop_in("thin_ls -m 42").out == drop_in("thin_ls -m ./42").out


def test_forms_of_thin_dump(drop_in: DropIns, corpus: Corpus, tmp_path: Path) -> None:
    meta, out = corpus["transaction-id"].meta, tmp_path / "out"
    xml = same(
        drop_in,
        meta,
        "thin_dump META",
        "thin_dump -f xml META",
        "thin_dump -fxml META",
        "thin_dump -f=xml META",
        "thin_dump --format xml META",
        "thin_dump --format=xml META",
        "thin_dump META --format xml",
        "thin_dump -q META",
        "thin_dump --quiet META",
        "thin_dump -qf xml META",
        "thin_dump -qfxml -- META",
    )
    for form in (f"-o {out}", f"-o{out}", f"-o={out}", f"--output {out}", f"--output={out}"):
        out.unlink(missing_ok=True)
        assert same(drop_in, meta, f"thin_dump {form} META") == b""
        assert out.read_bytes() == xml
    some = same(
        drop_in,
        meta,
        "thin_dump --dev-id 0 --dev-id 7 META",
        "thin_dump --dev-id=7 --dev-id=0 META",
        "thin_dump --dev-id 7 --dev-id 0 --dev-id 7 --dev-id 5 META",
    )
    assert 0 < len(some) < len(xml)
    assert b"<device" not in same(drop_in, meta, "thin_dump --dev-id 5 META")
    skipped = same(
        drop_in, meta, "thin_dump --skip-mappings META", "thin_dump --skip-mappings --dev-id 7 META"
    )
    assert b"mapping " not in skipped and skipped.count(b"<device") == 4


def test_forms_of_thin_ls(drop_in: DropIns, corpus: Corpus) -> None:
    meta = corpus["transaction-id"].meta
    same(
        drop_in,
        meta,
        "thin_ls -o DEV,MAPPED META",
        "thin_ls -oDEV,MAPPED META",
        "thin_ls -o=DEV,MAPPED META",
        "thin_ls --format DEV,MAPPED META",
        "thin_ls --format=DEV,MAPPED META",
        "thin_ls META -o DEV,MAPPED",
    )
    same(drop_in, corpus["metadata-snap"].meta, "thin_ls -moDEV META", "thin_ls -mo DEV META")


def test_forms_of_thin_delta(drop_in: DropIns, corpus: Corpus) -> None:
    meta = corpus["transaction-id"].meta
    same(
        drop_in,
        meta,
        "thin_delta --thin1 0 --thin2 7 META",
        "thin_delta --snap1 0 --snap2 7 META",
        "thin_delta --thin1=0 --thin2=7 META",
        "thin_delta --snap1=0 META --snap2=7",
    )


def test_forms_of_thin_metadata_size(drop_in: DropIns, tmp_path: Path) -> None:
    answers = {
        drop_in(f"thin_metadata_size {form}").out
        for form in (
            "-b 64k -s 1t -m 1000",
            "-b64k -s1t -m1000",
            "-b=64k -s=1t -m=1000",
            "--block-size 64k --pool-size 1t --max-thins 1000",
            "--block-size=65536b --pool-size=1024g --max-thins=1000 --unit=s",
            "-b 128 -s 2147483648s -m 1K -u sectors",
            "-b 64KiB -s 1tebibyte -m 1kilo -usector",
        )
    }
    assert answers == {b"1073232 sectors\n"}


REFUSED = [
    "thin_ls",
    "thin_ls META META",
    "thin_ls --bogus META",
    "thin_ls -x META",
    "thin_ls -o META",
    "thin_ls -o dev META",
    "thin_ls -o DEV, META",
    "thin_ls --no-headers=1 META",
    "thin_ls -o DEV -o DEV META",
    "thin_ls -m -m META",
    "thin_ls --format= META",
    "thin_dump -f human META",
    "thin_dump --dev-id x META",
    "thin_dump --dev-id 0,7 META",
    "thin_dump --dev-id -1 META",
    "thin_dump --dev-id 99999999999999999999 META",
    "thin_dump --data-block-size 4294967296 META",
    "thin_dump -m= META",
    "thin_dump -m=x META",
    "thin_dump -r -m META",
    "thin_delta --thin1 0 --root1 5 --thin2 0 META",
    "thin_delta META",
    "thin_delta --thin1 0 --thin2 99 META",
    "thin_delta --root1 0 --thin2 0 META",
    "thin_delta --root1 99999 --thin2 0 META",
    "thin_delta --thin1 0 --thin1 0 --thin2 0 META",
    "thin_check -m --clear-needs-check-flag META",
    "thin_check --auto-repair -m META",
    "thin_check --auto-repair --skip-mappings META",
    "thin_check -m --quick META",
    "thin_check --clear-needs-check-flag --override-mapping-root 5 META",
    "thin_check ABSENT",
    "thin_dump ABSENT",
    "thin_ls ABSENT",
    "thin_delta --thin1 0 --thin2 0 ABSENT",
    "thin_check FOLDER",
    "thin_dump -o ABSENT/out META",
    "thin_rmap META",
    "thin_rmap --region 0..9",
    "thin_rmap --region 0..9 ABSENT",
    "thin_rmap --region 0..9 META META",
    "thin_rmap --region META",
    "thin_rmap --region= META",
    "thin_rmap --region 9 META",
    "thin_rmap --region 9..9 META",
    "thin_rmap --region 9..3 META",
    "thin_rmap --region 0..x META",
    "thin_rmap --region 0..18446744073709551616 META",
    "thin_restore -i XML",
    "thin_restore -o OUT",
    "thin_restore -i XML -o",
    "thin_restore -i XML -o OUT more",
    "thin_restore -i XML -o ABSENT",
    "thin_restore -i ABSENT -o OUT",
    "thin_restore -i META -o OUT",
    "thin_restore -i XML -i XML -o OUT",
    "thin_restore -i XML -o OUT --transaction-id x",
    "thin_restore -i XML -o OUT --data-block-size 4294967296",
    "thin_restore -i XML -o OUT --nr-data-blocks -1",
    "thin_repair -i META",
    "thin_repair -o OUT",
    "thin_repair -i META -o ABSENT",
    "thin_repair -i ABSENT -o OUT",
    "thin_repair -i META -o OUT -m",
    "thin_repair -i META -o OUT --transaction-id x",
]


@pytest.mark.parametrize("line", REFUSED)
def test_what_1_x_refuses_is_refused(
    drop_in: DropIns, corpus: Corpus, tmp_path: Path, line: str
) -> None:
    meta = corpus["sequential"].meta
    places = {"META": meta, "ABSENT": tmp_path / "absent", "FOLDER": tmp_path}
    places |= {"XML": tmp_path / "pool.xml", "OUT": tmp_path / "out"}
    places["XML"].write_bytes(corpus["sequential"].dump_of("0.9.0", "live") or b"")
    places["OUT"].write_bytes(bytes(meta.stat().st_size))
    for word, place in places.items():
        line = line.replace(word, str(place))
    ran = drop_in(line)
    assert (ran.status, ran.out) == (1, b"")
    assert ran.err.startswith("thinmeta: ") and ran.err.count("\n") == 1
    peer = newer_tools()
    if peer is not None:
        tool, *words = line.split()
        assert drop_in(line, compat="1.x").status == peer.run(tool, *words).returncode


#: Command lines that 1.x and 0.9 take, and what they print must be what we print.
LINES = [
    "thin_ls META",
    "thin_ls -m META",
    "thin_ls --metadata-snap --no-headers META",
    "thin_ls --format MAPPED_BYTES,DEV,SHARED,HIGHEST_BYTE META",
    "thin_ls -oDEV,DEV,EXCLUSIVE_SECTORS META",
    "thin_delta --thin1 0 --thin2 2 META",
    "thin_delta --snap1=2 --snap2=0 META",
    "thin_delta -m --thin1 0 --thin2 1 META",
    "thin_delta --verbose --thin1 0 --thin2 2 META",
    "thin_delta --root1 73 --root2 73 --verbose META",
    "thin_dump META",
    "thin_dump -f xml META",
    "thin_dump -f=xml META",
    "thin_dump -m META",
    "thin_dump -m=42 META",
    "thin_dump --metadata-snap=42 META",
    "thin_dump --format human_readable META",
    "thin_dump --skip-mappings META",
    "thin_dump --skip-mappings --dev-id 2 META",
    "thin_dump --dev-id 0 --dev-id 9 META",
    "thin_dump --transaction-id 77 --nr-data-blocks 5 --data-block-size 64 META",
    "thin_dump -q META",
    "thin_check META",
    "thin_check -q META",
    "thin_check --quiet --clear-needs-check-flag META",
    "thin_check -m META",
    "thin_check --super-block-only META",
    "thin_check --skip-mappings META",
    "thin_check --ignore-non-fatal-errors --super-block-only META",
    "thin_check --override-mapping-root 73 --override-details-root=75 META",
    "thin_check --override-mapping-root 75 META",
    "thin_rmap --region 0..90 META",
    "thin_rmap --region=0..90 --region 100..1000000 META",
    "thin_rmap META --region 5..6 --region 0..3 --region 4..9",
    "thin_rmap --region 0..18446744073709551615 META",
    "thin_rmap --region 500000..500001 META",
    "thin_metadata_size -b64k -s1t -m7",
    "thin_metadata_size --block-size=1m --pool-size=1T --max-thins=7 -u g -n=long",
]


@pytest.fixture(scope="module")
def newer() -> NewerTools:
    tools = newer_tools()
    if tools is None:
        pytest.skip("1.x is not at hand: make peers")
    return tools


@pytest.mark.parametrize("line", LINES)
def test_1_x_prints_the_same_today(
    drop_in: DropIns, corpus: Corpus, newer: NewerTools, line: str
) -> None:
    line = line.replace("META", str(corpus["metadata-snap"].meta))
    tool, *words = line.split()
    theirs = newer.run(tool, *words)
    ours = drop_in(line, compat="1.x")
    assert (ours.status, ours.out) == (theirs.returncode, theirs.stdout)


#: Forms of 0.9 that 1.x has given up or lent another meaning: they have to be understood.
OLD_FORMS = [
    ("thin_dump -mBLOCK META", "thin_dump -m META"),
    ("thin_delta -mBLOCK --thin1 0 --thin2 1 META", "thin_delta -m --thin1 0 --thin2 1 META"),
    ("thin_metadata_size -b64kibibytes -s1tebi -m1kilo -nlong", None),
]


@pytest.mark.parametrize(("line", "plain"), OLD_FORMS)
def test_0_9_takes_what_we_take(
    drop_in: DropIns, corpus: Corpus, thin_tools: ThinTools, line: str, plain: str | None
) -> None:
    def run(text: str) -> tuple[subprocess.CompletedProcess[bytes], bytes]:
        text = text.replace("BLOCK", str(HELD)).replace("META", str(corpus["metadata-snap"].meta))
        tool, *words = text.split()
        ours = drop_in(text)
        assert ours.status == 0
        return thin_tools.run(tool, *words), ours.out

    theirs, ours = run(line)
    assert theirs.returncode == 0
    if plain is not None:
        again, other = run(plain)
        assert (again.stdout, other) == (theirs.stdout, ours)


def test_empty_words_are_none(corpus: Corpus) -> None:
    """LVM has one where lvm.conf gives no options."""
    meta = str(corpus["sequential"].meta)
    assert main(["thin_check", "", "-q", meta]) == 0
    assert main(["thin_ls", "", meta, ""]) == 0
    assert main(["thin_ls", ""]) == 1


def test_forms_of_thin_rmap(drop_in: DropIns, corpus: Corpus) -> None:
    some = same(
        drop_in,
        corpus["transaction-id"].meta,
        "thin_rmap --region 3..9 META",
        "thin_rmap --region=3..9 META",
        "thin_rmap META --region 3..9",
        "thin_rmap --region 3..9 -- META",
        "thin_rmap --region 3..5 --region 5..9 META",
        "thin_rmap --region 5..9 --region=3..9 META",
    )
    assert some.count(b"\n") > 0


#: Options of both, and what the dump then begins with.
OVERRIDES = {
    "": (),
    "--transaction-id 123456789013": ('transaction="123456789013"',),
    "--transaction-id=77 --nr-data-blocks=99999": (
        'transaction="123456789012"',
        'nr_data_blocks="99999"',
    ),
    # 1.x never makes these two less: no mapping is lost by them.
    "--nr-data-blocks 100 --transaction-id 0": ('nr_data_blocks="16384"',),
    "--data-block-size 256 -q": ('data_block_size="256"',),
}


@pytest.mark.parametrize("tool", ["thin_restore", "thin_repair", "thin_dump -r"])
@pytest.mark.parametrize("line", OVERRIDES)
def test_forms_of_what_writes_metadata(
    drop_in: DropIns, corpus: Corpus, tmp_path: Path, tool: str, line: str
) -> None:
    """Every way to name the two files; and what 1.x makes of the same is the same pool."""
    image = corpus["transaction-id"]
    given, out = image.meta, tmp_path / "out"
    if tool == "thin_restore":
        given = tmp_path / "pool.xml"
        given.write_bytes(image.dump_of("0.9.0", "live") or b"")
    forms = [
        f"-i {given} -o {out}",
        f"-i{given} -o{out}",
        f"-o={out} -i={given}",
        f"--input {given} --output {out}",
        f"--output={out} --input={given}",
    ]
    if tool == "thin_dump -r":
        forms = [f"-o {out} {given}", f"--output={out} {given}"]
    peer = newer_tools()
    dumps = set()
    for form in forms:
        for run in (drop_in, peer):
            if run is None:
                continue
            out.write_bytes(bytes(image.meta.stat().st_size))
            words = f"{tool} {form} {line}".split()
            if run is peer:
                assert peer.run(*words).returncode == 0
            else:
                ran = drop_in(" ".join(words))
                assert (ran.status, ran.out, ran.err) == (0, b"", "")
            is_xml = tool == "thin_dump -r"
            dumps.add(out.read_bytes() if is_xml else drop_in("thin_dump", out).out)
    assert len(dumps) == 1
    head = dumps.pop().decode().partition(">")[0]
    assert all(word in head for word in OVERRIDES[line])
