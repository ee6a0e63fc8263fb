"""The bytes of streams and tokens: what is refused, and how."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import thinmeta
from streams import SIZE, Source, monday_and_tuesday
from thinmeta import stream
from thinmeta._core import Blake3, crc32c
from thinmeta.identity import Identity
from thinmeta.stream.format import (
    CHECKPOINT,
    DATA,
    END,
    HEAD_BYTES,
    MAX_HEADER_BYTES,
    RAW,
    UNMAP,
    ZSTD,
    Header,
    Totals,
    encode_head,
    encode_header,
)
from thinmeta.stream.token import Token

IDENTITY = Identity(
    digest="ab" * 32,
    device_id=7,
    creation_time=3,
    pool_time=4,
    transaction_id=5,
    data_block_size_sectors=128,
    size_bytes=1 << 20,
    size_is_known=True,
    is_snapshot=True,
    external_origin=False,
    pool_uuid="",
)
HEADER = Header(IDENTITY, None, None, True, 0, 0, "a test")
CHANGES = Header(IDENTITY, IDENTITY, None, True, 0, 0, "a test")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return monday_and_tuesday(tmp_path_factory.mktemp("source"))


def refused(data: bytes) -> str:
    """Why a stream is not taken; both ways to look at it refuse it."""
    with pytest.raises(thinmeta.StreamError) as inspected:
        stream.inspect(io.BytesIO(data))
    with pytest.raises(thinmeta.StreamError) as verified:
        stream.verify(io.BytesIO(data))
    assert str(inspected.value) == str(verified.value)
    return str(verified.value)


def made(header: Header, *records: tuple[int, int, int, int, bytes]) -> bytes:
    """A stream of kind, codec, offset, length and payload, with a right end."""
    data = encode_header(header)
    for kind, codec, offset, length, payload in records:
        data += encode_head(kind, offset, length, payload, codec) + payload
    kinds = [record[0] for record in records]
    totals = Totals(
        kinds.count(DATA),
        kinds.count(UNMAP),
        kinds.count(CHECKPOINT),
        sum(record[3] for record in records if record[0] == DATA),
        sum(record[3] for record in records if record[0] == UNMAP),
        Blake3(data).digest(),
    )
    payload = totals.pack()
    return data + encode_head(END, header.identity.size_bytes, len(data), payload) + payload


def test_a_stream_says_what_is_in_it(source: Source) -> None:
    rows = []
    data = source.send(2)
    summary = stream.inspect(io.BytesIO(data), record=lambda *row: rows.append(row))
    assert summary == stream.verify(io.BytesIO(data))
    assert summary.stream_bytes == len(data)
    assert summary.header.identity.size_bytes == SIZE
    assert summary.header.base is None
    assert summary.data_bytes + summary.unmap_bytes == SIZE
    assert [row[0] for row in rows].count("data") == summary.data_records > 1
    assert [row[0] for row in rows].count("checkpoint") == summary.checkpoints > 1
    ranges = [row[1:3] for row in rows if row[0] != "checkpoint"]
    assert ranges[0][0] == 0
    assert [sum(each) for each in ranges] == [each[0] for each in ranges[1:]] + [SIZE]
    again = source.send(2, checkpoint_bytes=1 << 20, threads=1, level=9)
    assert stream.verify(io.BytesIO(again)).checkpoints == 0


@pytest.mark.parametrize("base", [None, 2])
def test_any_bit_that_is_not_as_it_was_is_noticed(source: Source, base: int | None) -> None:
    data = source.send(3, base)
    for at in range(len(data)):
        spoiled = bytearray(data)
        spoiled[at] ^= 1 << at % 8
        refused(bytes(spoiled))


def test_a_stream_that_was_cut_is_noticed_wherever_it_was(source: Source) -> None:
    data = source.send(3, 2)
    for length in range(1, len(data)):
        assert "was cut" in refused(data[:length]), length
    assert "nothing came" in refused(b"")
    assert "something follows the end" in refused(data + b"x")
    assert "something follows the end" in refused(data + data)


def test_a_source_that_gives_few_bytes_at_a_time_is_read(source: Source) -> None:
    class Slow(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self._data = io.BytesIO(data)

        def read(self, size: int = -1, /) -> bytes:
            return self._data.read(min(size, 3))

    data = source.send(3, 2)
    assert stream.verify(Slow(data)) == stream.verify(io.BytesIO(data))


def test_a_sink_that_takes_few_bytes_at_a_time_gets_all(source: Source) -> None:
    taken = bytearray()

    class Slow:
        def write(self, data: memoryview) -> int:
            part = bytes(data)[:5]
            taken.extend(part)
            return len(part)

    with source.generation(3) as generation:
        stream.send(generation, Slow(), base=2, checkpoint_bytes=1)  # type: ignore[arg-type]
    assert bytes(taken) == source.send(3, 2)


def test_a_stream_from_a_newer_version_says_which_can_be_read(source: Source) -> None:
    data = bytearray(source.send(2))
    data[16:20] = struct.pack("<I", 2)
    why = refused(bytes(data))
    assert "version 2" in why and "reads version 1" in why
    newer = made(HEADER, (UNMAP, RAW, 0, 1 << 20, b""))
    stream.verify(io.BytesIO(newer))
    begin = len(encode_header(HEADER))
    head = bytearray(newer[begin : begin + HEAD_BYTES])
    head[0] = 9
    head[24:] = struct.pack("<I", crc32c(bytes(head[:24])))
    assert "version 1 does not have" in refused(newer[:begin] + bytes(head))


@pytest.mark.parametrize(
    ("header", "records", "says"),
    [
        (HEADER, [], "leaves something out"),
        (HEADER, [(UNMAP, RAW, 0, (1 << 20) - 1, b"")], "leaves something out"),
        (HEADER, [(UNMAP, RAW, 1, (1 << 20) - 1, b"")], "leaves something out"),
        (HEADER, [(UNMAP, RAW, 0, (1 << 20) + 1, b"")], "past the end"),
        (CHANGES, [(UNMAP, RAW, 100, 10, b""), (UNMAP, RAW, 109, 1, b"")], "before the last"),
        (CHANGES, [(UNMAP, RAW, 100, 10, b""), (DATA, RAW, 0, 1, b"x")], "before the last"),
        (CHANGES, [(UNMAP, RAW, (1 << 63) - 1, (1 << 63) - 1, b"")], "past the end"),
        (CHANGES, [(UNMAP, RAW, 0, 1 << 63, b"")], "cannot be"),
        (CHANGES, [(UNMAP, RAW, 0, 0, b"")], "cannot be"),
        (CHANGES, [(UNMAP, ZSTD, 0, 1, b"")], "cannot be"),
        (CHANGES, [(DATA, RAW, 0, 2, b"x")], "cannot be"),
        (CHANGES, [(DATA, RAW, 0, 0, b"")], "cannot be"),
        (CHANGES, [(DATA, ZSTD, 0, 1, b"x")], "cannot be"),
        (CHANGES, [(DATA, 2, 0, 2, b"x")], "cannot be"),
        (CHANGES, [(DATA, ZSTD, 0, (1 << 20) + 1, b"x")], "cannot be"),
        (CHANGES, [(CHECKPOINT, RAW, 0, 5, bytes(32))], "belongs somewhere else"),
        (CHANGES, [(CHECKPOINT, RAW, 0, 500, bytes(31))], "cannot be"),
    ],
)
def test_records_that_cannot_be_are_refused(
    header: Header, records: list[tuple[int, int, int, int, bytes]], says: str
) -> None:
    assert says in refused(made(header, *records))


def test_content_that_is_no_zstd_is_noticed_when_it_is_unpacked() -> None:
    for payload in (b"nonsense", b"\x28\xb5\x2f\xfd" + bytes(20)):
        data = made(CHANGES, (DATA, ZSTD, 0, 1000, payload))
        stream.inspect(io.BytesIO(data))
        with pytest.raises(thinmeta.StreamError, match="compressed"):
            stream.verify(io.BytesIO(data))


def test_a_checkpoint_and_an_end_hold_the_hash_of_what_came_before() -> None:
    begin = encode_header(CHANGES)
    digest = Blake3(begin).digest()
    data = made(CHANGES, (CHECKPOINT, RAW, 0, len(begin), digest))
    assert stream.verify(io.BytesIO(data)).checkpoints == 1
    wrong = bytes([digest[0] ^ 1]) + digest[1:]
    assert "BLAKE3" in refused(made(CHANGES, (CHECKPOINT, RAW, 0, len(begin), wrong)))
    end = Totals(0, 0, 0, 0, 0, wrong).pack()
    assert "BLAKE3" in refused(begin + encode_head(END, 1 << 20, len(begin), end) + end)
    end = Totals(1, 0, 0, 0, 0, digest).pack()
    assert "number of records" in refused(begin + encode_head(END, 1 << 20, len(begin), end) + end)


def with_text(text: bytes) -> bytes:
    head = struct.pack("<16sII", b"thinmeta-stream\n", 1, len(text)) + text
    return head + struct.pack("<I", crc32c(head))


GOOD = HEADER.to_json()
WRONG: list[dict[str, Any]] = [
    {"identity": 5},
    {"base": {}},
    {"base": []},
    {"resumable": 1},
    {"resume_offset_bytes": -1},
    {"resume_offset_bytes": True},
    {"resume_offset_bytes": (1 << 20) + 1},
    {"data_bytes": 1e3},
    {"zero_bytes": 1 << 70},
    {"program": None},
    {"program": "x" * 1000},
    {"identity": {**GOOD["identity"], "digest": "AB" * 32}},
    {"identity": {**GOOD["identity"], "size_bytes": 1 << 63}},
    {"identity": {**GOOD["identity"], "pool_uuid": "\n"}},
]


@pytest.mark.parametrize(
    "text",
    [
        b"x",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b"9" * 5000,
        b'{"identity": ' + b"1" * 5000 + b"}",
        b"\xff\xfe",
        *(
            json.dumps({name: value for name, value in GOOD.items() if name != missing}).encode()
            for missing in GOOD
        ),
        *(json.dumps({**GOOD, **wrong}).encode() for wrong in WRONG),
    ],
)
def test_headers_that_cannot_be_are_refused(text: bytes) -> None:
    refused(with_text(text))


def test_what_a_header_says_more_is_left_alone() -> None:
    data = with_text(json.dumps({**GOOD, "later": [1, 2]}).encode())
    assert "was cut" in refused(data)


def test_a_header_sets_aside_no_memory_for_what_it_only_says() -> None:
    head = struct.pack("<16sII", b"thinmeta-stream\n", 1, MAX_HEADER_BYTES + 1)
    assert "a header of 1048577 bytes" in refused(head)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_stream(data: bytes) -> None:
    refused(data)
    refused(b"thinmeta-stream\n" + data)
    refused(encode_header(CHANGES) + data)


# ---- tokens ----

TOKENS = st.builds(
    lambda digest, base, origin, sizes: Token(digest, max(sizes), origin, base, min(sizes)),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.booleans(),
    st.tuples(*[st.integers(0, (1 << 63) - 1)] * 2),
)


@given(TOKENS)
def test_a_token_is_short_and_comes_back(token: Token) -> None:
    text = str(token)
    assert len(text) < 120
    assert text[0].isalnum(), "an option's value must not look like an option"
    assert Token.parse(text) == token


@given(TOKENS, st.data())
def test_a_token_with_another_character_is_none(token: Token, data: st.DataObject) -> None:
    text = str(token)
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters().filter(lambda each: each != text[at]))
    for other in (
        text[:at] + character + text[at + 1 :],
        text[:at] + text[at + 1 :],
        text[:at],
        text[:at] + character + text[at:],
    ):
        if other == text:
            continue
        with pytest.raises(thinmeta.StreamError):
            Token.parse(other)


@given(st.text(max_size=200))
def test_random_text_is_no_token(text: str) -> None:
    with pytest.raises(thinmeta.StreamError, match="token"):
        Token.parse(text)


def test_a_token_of_a_newer_version_says_so() -> None:
    from base64 import urlsafe_b64encode

    body = b"\x02" + bytes(20)
    text = urlsafe_b64encode(body + crc32c(body).to_bytes(4, "little")).rstrip(b"=").decode()
    with pytest.raises(thinmeta.StreamError, match="version 2"):
        Token.parse(text)


def test_a_token_is_only_for_the_stream_that_was_cut(source: Source) -> None:
    with source.generation(3) as generation:
        identity, base = generation.identity, generation.changes(2).base
    assert base is not None
    good = Token.of(identity, base, 100)
    with source.generation(3) as generation:
        sent = io.BytesIO()
        report = stream.send(generation, sent, base=2, token=str(good))
    assert report.resumed_at_bytes == 100
    for token, device_id, other_base, says in [
        (good._replace(digest="00" * 32), 3, 2, "another state"),
        (good._replace(size_bytes=SIZE + 1), 3, 2, "another state"),
        (good._replace(base_digest=None), 3, 2, "no base"),
        (good._replace(external_origin=True), 3, 2, "external origin"),
        (good, 3, None, "the same base"),
        (good, 2, None, "another state"),
        (good, 1, None, "nothing proves"),
    ]:
        with (
            source.generation(device_id) as generation,
            pytest.raises(thinmeta.WrongBaseError, match=says),
        ):
            stream.send(generation, io.BytesIO(), base=other_base, token=token)


@pytest.fixture
def empty(tmp_path: Path) -> Source:
    source = Source(tmp_path)
    source.create(1)
    return source


def test_a_volume_without_anything_is_a_stream_without_content(empty: Source) -> None:
    summary = stream.verify(io.BytesIO(empty.send(1)))
    assert (summary.data_records, summary.unmap_records, summary.unmap_bytes) == (0, 1, SIZE)
    nothing = stream.verify(io.BytesIO(empty.send(1, options={"size_bytes": None})))
    assert (nothing.header.identity.size_bytes, nothing.unmap_records) == (0, 0)
    assert not nothing.header.identity.size_is_known
