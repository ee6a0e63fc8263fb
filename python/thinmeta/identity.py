"""Who a state of a volume is: what streams, backups and their targets compare."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from thinmeta.errors import StreamError, WrongBaseError

__all__ = ["Identity"]

DIGEST_BYTES = 32
MAX_UUID_BYTES = 128
MAX_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What one state of a volume is known by.

    Two states are the same if their ``digest`` is, and their pools are, as far as those are
    known: that is compared. The rest says where they are from, for people and for messages.
    Two pools that were filled alike have states of one digest, so that of pools without a uuid
    it is for the caller to know which is which.

    Attributes:
        digest: BLAKE3 of all its mappings in ascending order, in hexadecimal
            (``docs/stream.md`` has the bytes). A state that was written in place has a new
            content and the old digest, so that only of a snapshot it says everything.
        device_id: The thin device's id in its pool.
        creation_time: The pool's clock when the device was made.
        pool_time: The pool's clock when the state was looked at.
        transaction_id: The pool's transaction id then.
        data_block_size_sectors: Size of a data block, in sectors of 512 bytes.
        size_bytes: Size of the volume in bytes.
        size_is_known: Whether somebody said so; if not, it is where the last mapped block
            ends.
        is_snapshot: Whether it is a snapshot that nobody has written to: only such a state
            proves what is unchanged later.
        external_origin: Whether what is not mapped shows an external origin.
        pool_uuid: The uuid that device-mapper or LVM gave the pool; empty if unknown. (The
            superblock's own is always zero.)
    """

    digest: str
    device_id: int
    creation_time: int
    pool_time: int
    transaction_id: int
    data_block_size_sectors: int
    size_bytes: int
    size_is_known: bool
    is_snapshot: bool
    external_origin: bool
    pool_uuid: str

    def to_json(self) -> dict[str, Any]:
        """As what JSON can say."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Identity:
        """Make one from what somebody else says it is.

        Raises:
            StreamError: That cannot be.
        """
        if not isinstance(value, dict):
            raise StreamError("an identity is not an object")
        found: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in value:
                raise StreamError(f"an identity without {field.name}")
            found[field.name] = part = value[field.name]
            kind = {"int": int, "bool": bool, "str": str}[str(field.type)]
            impossible = type(part) is int and not 0 <= part <= MAX_U64
            if type(part) is not kind or impossible:
                raise StreamError(f"an identity whose {field.name} cannot be: {part!r:.40}")
        digest, uuid = found["digest"], found["pool_uuid"]
        if len(digest) != 2 * DIGEST_BYTES or not set(digest) <= set("0123456789abcdef"):
            raise StreamError("an identity whose digest cannot be")
        if len(uuid.encode(errors="replace")) > MAX_UUID_BYTES or not uuid.isprintable():
            raise StreamError("an identity whose pool_uuid cannot be")
        if not 0 < found["data_block_size_sectors"] <= 1 << 21 or found["size_bytes"] >= 1 << 63:
            raise StreamError("an identity whose sizes cannot be")
        return cls(**found)

    def check_base(self, expected: Identity) -> None:
        """Refuse to go on from this state where ``expected`` is needed.

        Raises:
            WrongBaseError: It is another one.
        """
        if self.digest != expected.digest:
            raise WrongBaseError(
                f"it holds {self.describe()}, and what comes was made from {expected.describe()}"
            )
        ours, theirs = self.pool_uuid, expected.pool_uuid
        if ours and theirs and ours != theirs:
            raise WrongBaseError(
                f"it holds {self.describe()} of pool {ours}, and what comes was made from pool "
                f"{theirs}, which only looks alike"
            )
        if self.data_block_size_sectors != expected.data_block_size_sectors:
            raise WrongBaseError(
                f"it holds data blocks of {self.data_block_size_sectors} sectors, and what comes "
                f"has {expected.data_block_size_sectors}"
            )

    def describe(self) -> str:
        """In a few words."""
        return f"device {self.device_id} as of time {self.creation_time} ({self.digest[:12]})"
