"""Values that describe a pool: frozen, comparable, without behaviour of their own.

Fields that lie on disk keep their kernel names (``held_root``, ``nr_blocks``);
everything else carries its unit in its name. Metadata blocks are 4096 bytes,
sectors 512 bytes, data blocks ``Superblock.data_block_size`` sectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

SECTOR_BYTES = 512

Severity = Literal["fatal", "non-fatal", "info"]
Kind = Literal["changed", "left_only", "right_only", "same"]
PoolState = Literal["write", "out_of_data_space", "read_only", "failed"]


@dataclass(frozen=True, slots=True)
class SpaceMapRoot:
    """Where a space map lives and what it sums up (32 bytes of the superblock).

    Attributes:
        nr_blocks: Blocks managed: metadata blocks or data blocks.
        nr_allocated: Of these, how many are in use.
        bitmap_root: Metadata block of the index (metadata map) or of the root of
            the index tree (data map).
        ref_count_root: Metadata block of the root of the tree that holds
            reference counts of three and more.
    """

    nr_blocks: int
    nr_allocated: int
    bitmap_root: int
    ref_count_root: int


@dataclass(frozen=True, slots=True)
class Superblock:
    """Block 0 of the metadata, or its copy in a metadata snapshot, field by field.

    Attributes:
        csum: CRC-32C of bytes 4 to 4095, with the superblock's salt.
        flags: Bit 0 is ``needs_check``.
        blocknr: The block's own number; 0 but in a metadata snapshot.
        uuid: 16 bytes in hexadecimal; the kernel leaves them zero.
        magic: 27022010.
        version: 1 or 2.
        time: The pool's clock, one tick a snapshot.
        trans_id: The transaction id, which belongs to userspace (LVM counts here).
        held_root: Metadata block of the metadata snapshot, 0 for none.
        data_space_map_root: Which data blocks are in use.
        metadata_space_map_root: Which metadata blocks are in use.
        data_mapping_root: Metadata block of the root of the mapping tree.
        device_details_root: Metadata block of the root of the details tree.
        data_block_size: Size of a data block, in sectors of 512 bytes.
        metadata_block_size: Size of a metadata block, in sectors: 8.
        metadata_nr_blocks: Metadata blocks when the pool was made; growing the pool
            does not change it. ``metadata_space_map_root.nr_blocks`` is up to date.
        compat_flags: Features that anybody may ignore.
        compat_ro_flags: Features that a reader may ignore.
        incompat_flags: Features that nobody may ignore.
        needs_check: Bit 0 of ``flags``: the kernel wants the metadata checked.

    Source: dm-thin's superblock, 364 bytes in use.
    """

    csum: int
    flags: int
    blocknr: int
    uuid: str
    magic: int
    version: int
    time: int
    trans_id: int
    held_root: int
    data_space_map_root: SpaceMapRoot
    metadata_space_map_root: SpaceMapRoot
    data_mapping_root: int
    device_details_root: int
    data_block_size: int
    metadata_block_size: int
    metadata_nr_blocks: int
    compat_flags: int
    compat_ro_flags: int
    incompat_flags: int
    needs_check: bool

    @property
    def data_block_size_bytes(self) -> int:
        """Size of a data block in bytes."""
        return self.data_block_size * SECTOR_BYTES

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """Make one from the native module's fields."""
        maps = ("data_space_map_root", "metadata_space_map_root")
        return cls(**{**fields, **{name: SpaceMapRoot(**fields[name]) for name in maps}})


@dataclass(frozen=True, slots=True)
class SpaceUsage:
    """How full a space is.

    Attributes:
        blocks: All of them, in metadata blocks (4096 bytes) or in data blocks.
        free: Those that nothing uses.
        allocated: Those in use: ``blocks - free``.
    """

    blocks: int
    free: int
    allocated: int


class DeviceDetails(NamedTuple):
    """A thin device's counters.

    Attributes:
        id: Its number in the pool, 24 bits.
        mapped_blocks: How many data blocks it maps, its own and shared ones.
        transaction_id: The pool's transaction id when it was created.
        creation_time: The pool's clock when it was created.
        snapshotted_time: The pool's clock at the last snapshot of or from it.
    """

    id: int
    mapped_blocks: int
    transaction_id: int
    creation_time: int
    snapshotted_time: int


class DeltaRange(NamedTuple):
    """One row of a :class:`thinmeta.Delta`: where two volumes differ, and how.

    Attributes:
        kind: ``"changed"`` (both have data, elsewhere in the pool), ``"left_only"``,
            ``"right_only"`` (only one of them has data) or ``"same"``.
        begin_blocks: First virtual block, in data blocks.
        length_blocks: Number of blocks.
        begin_bytes: The same place in bytes.
        length_bytes: The same length in bytes.
        left_data_block: Where the left volume's first block lies in the pool's
            data; the others follow it. ``None`` where it has no data.
        right_data_block: The same for the right volume.
    """

    kind: str
    begin_blocks: int
    length_blocks: int
    begin_bytes: int
    length_bytes: int
    left_data_block: int | None
    right_data_block: int | None


class ReverseRun(NamedTuple):
    """One row of a :class:`thinmeta.ReverseMap`: blocks side by side, and whose they are.

    Attributes:
        data_begin: First block of the pool's data.
        length_blocks: Number of blocks.
        device_id: The thin device.
        virtual_begin: First block in that device.
    """

    data_begin: int
    length_blocks: int
    device_id: int
    virtual_begin: int


@dataclass(frozen=True, slots=True)
class AffectedRange:
    """A part of a thin device that a finding makes unreadable or doubtful.

    Attributes:
        device_id: The thin device.
        begin_block: First virtual block, in data blocks.
        end_block: One past the last; ``None`` for "to the end of the device".
    """

    device_id: int
    begin_block: int
    end_block: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that ``check`` found.

    Attributes:
        code: Stable name of the kind of finding; ``docs/findings.md`` lists them.
        severity: ``"fatal"`` (data cannot be reached or must not be trusted),
            ``"non-fatal"`` (repairable with nothing lost, such as a leak) or
            ``"info"``.
        message: What is wrong, in words.
        block: The metadata block concerned, if it is about one.
        tree: The structure it belongs to, e.g. ``"mapping tree"``.
        path: Metadata blocks from the tree's root down to the one concerned.
        affected: Parts of thin devices that cannot be trusted, the first few.
        affected_total: How many such parts there are in all.
        counted: For findings about reference counts, the blocks that they are about,
            as a half-open range: metadata or data blocks, as ``tree`` says.
    """

    code: str
    severity: Severity
    message: str
    block: int | None = None
    tree: str | None = None
    path: tuple[int, ...] = ()
    affected: tuple[AffectedRange, ...] = ()
    affected_total: int = 0
    counted: tuple[int, int] | None = None

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """Make one from the native module's fields."""
        affected = tuple(AffectedRange(*part) for part in fields.get("affected", ()))
        counted = fields.get("counted")
        return cls(
            code=fields["code"],
            severity=fields["severity"],
            message=fields["message"],
            block=fields.get("block"),
            tree=fields.get("tree"),
            path=tuple(fields.get("path", ())),
            affected=affected,
            affected_total=fields.get("affected_total", len(affected)),
            counted=None if counted is None else (counted[0], counted[1]),
        )


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found, and how much it looked at.

    Attributes:
        is_clean: Nothing is wrong. Findings of severity ``"info"`` do not count.
        findings: What was found, the worst first.
        findings_omitted: Findings too many to list, counted by code.
        metadata_blocks_checked: Metadata blocks read and verified.
        mappings_checked: Mappings seen, each shared leaf's counted once.
        devices: Thin devices seen.
        transaction_id: The pool's transaction id.
        data_block_size_sectors: Size of a data block, in sectors of 512 bytes.
    """

    is_clean: bool
    findings: tuple[Finding, ...] = ()
    findings_omitted: dict[str, int] = field(default_factory=dict)
    metadata_blocks_checked: int = 0
    mappings_checked: int = 0
    devices: int = 0
    transaction_id: int | None = None
    data_block_size_sectors: int | None = None

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """Make one from the native module's fields."""
        return cls(
            is_clean=fields["clean"],
            findings=tuple(Finding.from_fields(each) for each in fields["findings"]),
            findings_omitted=dict(fields.get("findings_omitted", {})),
            metadata_blocks_checked=fields.get("metadata_blocks_checked", 0),
            mappings_checked=fields.get("mappings_checked", 0),
            devices=fields.get("devices", 0),
            transaction_id=fields.get("transaction_id"),
            data_block_size_sectors=fields.get("data_block_size_sectors"),
        )


@dataclass(frozen=True, slots=True)
class NewPool:
    """What a tool made that writes metadata anew.

    Attributes:
        metadata_blocks: Metadata blocks there are, of 4096 bytes.
        metadata_blocks_used: Of these, how many are in use.
        data_blocks_used: Data blocks that some device maps.
        devices: Thin devices.
        mapped_blocks: Mappings of all devices; what they share counts for each.
    """

    metadata_blocks: int
    metadata_blocks_used: int
    data_blocks_used: int
    devices: int
    mapped_blocks: int


@dataclass(frozen=True, slots=True)
class PackedMetadata:
    """What was packed; blocks have 4096 bytes.

    Attributes:
        metadata_blocks: Blocks of the device or image.
        packed_blocks: Of these, how many are metadata of some kind, and in the pack.
        left_out_blocks: How many are neither that nor zeros: damaged ones, for example. The
            form has no place for them.
        packed_bytes: Size of the result.
    """

    metadata_blocks: int
    packed_blocks: int
    left_out_blocks: int
    packed_bytes: int


@dataclass(frozen=True, slots=True)
class UnpackedMetadata:
    """What was unpacked; blocks have 4096 bytes.

    Attributes:
        metadata_blocks: Blocks of the device or image that was packed.
        unpacked_blocks: Of these, how many were in the pack; the others are zeros.
    """

    metadata_blocks: int
    unpacked_blocks: int
