"""An independent model of a pool's listing: plain dictionaries, no cleverness.

It is read from and written as thin_dump's XML, and answers in the simplest
possible way what the library answers in a fast one.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.etree import ElementTree

SECTOR = 512


class RunRow(NamedTuple):
    virtual_begin: int
    data_begin: int
    length_blocks: int
    time: int


class DeltaRow(NamedTuple):
    kind: str
    begin: int
    length: int
    left: int | None
    right: int | None


@dataclass
class DeviceModel:
    id: int
    transaction_id: int = 0
    creation_time: int = 0
    snapshotted_time: int = 0
    mapped_blocks: int = 0
    #: virtual block -> (data block, time)
    mappings: dict[int, tuple[int, int]] = field(default_factory=dict)

    def runs(self) -> list[RunRow]:
        """Mappings joined where virtual blocks, data blocks and times allow it."""
        out: list[RunRow] = []
        for virtual, (data, time) in sorted(self.mappings.items()):
            last = out[-1] if out else None
            if last and (virtual, data, time) == (
                last.virtual_begin + last.length_blocks,
                last.data_begin + last.length_blocks,
                last.time,
            ):
                out[-1] = last._replace(length_blocks=last.length_blocks + 1)
            else:
                out.append(RunRow(virtual, data, 1, time))
        return out

    def blocks(self) -> set[int]:
        return {data for data, _ in self.mappings.values()}

    @property
    def end_block(self) -> int:
        return max(self.mappings, default=-1) + 1


@dataclass
class PoolModel:
    data_block_size_sectors: int = 128
    nr_data_blocks: int = 0
    time: int = 0
    transaction_id: int = 0
    devices: dict[int, DeviceModel] = field(default_factory=dict)

    @property
    def block_bytes(self) -> int:
        return self.data_block_size_sectors * SECTOR

    @classmethod
    def from_xml(cls, xml: bytes) -> "PoolModel":
        """Read a listing, with ``def`` and ``ref`` put in their places."""
        root = ElementTree.fromstring(xml)
        pool = cls(
            data_block_size_sectors=int(root.attrib["data_block_size"]),
            nr_data_blocks=int(root.attrib["nr_data_blocks"]),
            time=int(root.attrib["time"]),
            transaction_id=int(root.attrib["transaction"]),
        )
        defs = {element.attrib["name"]: element for element in root.findall("def")}
        for element in root.findall("device"):
            device = DeviceModel(
                id=int(element.attrib["dev_id"]),
                transaction_id=int(element.attrib["transaction"]),
                creation_time=int(element.attrib["creation_time"]),
                snapshotted_time=int(element.attrib["snap_time"]),
                mapped_blocks=int(element.attrib["mapped_blocks"]),
            )
            previous = -1
            for virtual, data, length, time in _ranges(element, defs):
                assert virtual > previous, "a listing is in ascending order"
                previous = virtual + length - 1
                for i in range(length):
                    device.mappings[virtual + i] = (data + i, time)
            assert device.id not in pool.devices
            pool.devices[device.id] = device
        return pool

    def to_xml(self) -> bytes:
        first = (
            f'<superblock uuid="" time="{self.time}" transaction="{self.transaction_id}"'
            f' flags="0" version="2" data_block_size="{self.data_block_size_sectors}"'
            f' nr_data_blocks="{self.nr_data_blocks}">'
        )
        lines = [first]
        for device in self.devices.values():
            lines.append(
                f'  <device dev_id="{device.id}" mapped_blocks="{len(device.mappings)}"'
                f' transaction="{device.transaction_id}" creation_time="{device.creation_time}"'
                f' snap_time="{device.snapshotted_time}">'
            )
            for run in device.runs():
                lines.append(
                    f'    <range_mapping origin_begin="{run.virtual_begin}"'
                    f' data_begin="{run.data_begin}" length="{run.length_blocks}"'
                    f' time="{run.time}"/>'
                )
            lines.append("  </device>")
        lines.append("</superblock>\n")
        return "\n".join(lines).encode()

    def delta(self, left: int, right: int, *, same: bool = False) -> list[DeltaRow]:
        """Rows joined where the kind and both sides' data blocks go on."""
        a, b = self.devices[left].mappings, self.devices[right].mappings
        out: list[DeltaRow] = []
        for virtual in sorted({*a, *b}):
            mine, other = a.get(virtual, (None, 0))[0], b.get(virtual, (None, 0))[0]
            kind = (
                "right_only"
                if mine is None
                else "left_only"
                if other is None
                else "same"
                if mine == other
                else "changed"
            )
            if kind == "same" and not same:
                continue
            row = DeltaRow(kind, virtual, 1, mine, other)
            if out and _continues(out[-1], row):
                out[-1] = out[-1]._replace(length=out[-1].length + 1)
            else:
                out.append(row)
        return out

    def exclusive_blocks(self) -> dict[int, tuple[int, int]]:
        """For each device, how many of its data blocks no other device maps, and the rest."""
        users = Counter(block for device in self.devices.values() for block in device.blocks())
        out = {}
        for device in self.devices.values():
            alone = sum(users[data] == 1 for data, _ in device.mappings.values())
            out[device.id] = (alone, len(device.mappings) - alone)
        return out

    def content(self, device_id: int, data: bytes, size: int, origin: bytes = b"") -> bytes:
        """A volume's bytes: mapped blocks, else the external origin, else zeros."""
        out = bytearray(size)
        out[: len(origin)] = origin[:size]
        for virtual, (block, _) in self.devices[device_id].mappings.items():
            at = virtual * self.block_bytes
            piece = data[block * self.block_bytes : (block + 1) * self.block_bytes]
            out[at : at + len(piece)] = piece[: max(0, size - at)]
        return bytes(out)


def merged(rows: Iterable[DeltaRow | tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Neighbouring ranges of one kind joined, whatever their data blocks."""
    out: list[tuple[str, int, int]] = []
    for kind, begin, length in (row[:3] for row in rows):
        if out and out[-1][0] == kind and out[-1][1] + out[-1][2] == begin:
            out[-1] = (kind, out[-1][1], out[-1][2] + length)
        else:
            out.append((kind, begin, length))
    return out


def peer_kind(tag: str) -> str:
    """thin_delta's word for what ``Delta`` calls changed."""
    return "changed" if tag == "different" else tag


def _continues(last: DeltaRow, row: DeltaRow) -> bool:
    def after(value: int | None) -> int | None:
        return None if value is None else value + last.length

    return row == DeltaRow(
        last.kind, last.begin + last.length, 1, after(last.left), after(last.right)
    )


def _ranges(
    element: ElementTree.Element, defs: dict[str, ElementTree.Element]
) -> Iterator[tuple[int, int, int, int]]:
    for child in element:
        get = child.attrib
        if child.tag == "ref":
            yield from _ranges(defs[get["name"]], defs)
        elif child.tag == "single_mapping":
            yield int(get["origin_block"]), int(get["data_block"]), 1, int(get["time"])
        else:
            assert child.tag == "range_mapping"
            yield (
                int(get["origin_begin"]),
                int(get["data_begin"]),
                int(get["length"]),
                int(get["time"]),
            )
