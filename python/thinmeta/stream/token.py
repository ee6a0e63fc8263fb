"""Tokens: where a stream that was cut goes on.

A line of text that the receiving side prints and the sending side is given. It names the
state that was wanted, the one that it is made from, and a place in the volume; with that
the sender either continues exactly this stream, or refuses.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from struct import Struct
from typing import NamedTuple

from thinmeta._core import crc32c
from thinmeta.errors import StreamError, WrongBaseError
from thinmeta.stream.format import DIGEST_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.identity import Identity
    from thinmeta.stream.format import Header

__all__ = ["Token"]

VERSION = 1
MAX_CHARACTERS = 1000
MAX_BYTES = 1 << 63
#: Version, flags, digest, digest of the base (or zeros), size, place; a CRC-32C follows. The
#: version comes first so that no token begins with a dash, as options do.
_FORM = Struct("<BB32s32sQQ")
_CRC_BYTES = 4
_EXTERNAL_ORIGIN, _BASE = 1, 2
_NO_TOKEN = "this is no token of 'thinmeta receive', or not all of it"


class Token(NamedTuple):
    """What has come, and of what.

    Attributes:
        digest: Of the state that was being sent, in hexadecimal.
        size_bytes: Its size.
        external_origin: Whether it shows an external origin.
        base_digest: Of the state it was made from; ``None``: it was sent whole.
        offset_bytes: All of the volume below this has arrived.
    """

    digest: str
    size_bytes: int
    external_origin: bool
    base_digest: str | None
    offset_bytes: int

    @classmethod
    def of(cls, identity: Identity, base: Identity | None, offset_bytes: int) -> Token:
        """Where a stream from ``base`` to ``identity`` goes on."""
        return cls(
            identity.digest,
            identity.size_bytes,
            identity.external_origin,
            None if base is None else base.digest,
            offset_bytes,
        )

    def __str__(self) -> str:
        flags = self.external_origin * _EXTERNAL_ORIGIN | (self.base_digest is not None) * _BASE
        raw = _FORM.pack(
            VERSION,
            flags,
            bytes.fromhex(self.digest),
            bytes.fromhex(self.base_digest or "00" * DIGEST_BYTES),
            self.size_bytes,
            self.offset_bytes,
        )
        raw += crc32c(raw).to_bytes(_CRC_BYTES, "little")
        return urlsafe_b64encode(raw).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token.

        Raises:
            StreamError: It is none, is damaged, or of a newer version.
        """
        raw = _decode(text)
        body, crc = raw[:-_CRC_BYTES], raw[-_CRC_BYTES:]
        if crc32c(body).to_bytes(_CRC_BYTES, "little") != crc:
            raise StreamError(_NO_TOKEN)
        if body[0] != VERSION:
            raise StreamError(
                f"a token of version {body[0]}, and this program reads {VERSION}: use one that is "
                "as new as the receiver's"
            )
        if len(body) != _FORM.size:
            raise StreamError(_NO_TOKEN)
        _, flags, digest, base, size, offset = _FORM.unpack(body)
        unknown = flags & ~(_EXTERNAL_ORIGIN | _BASE) or (not flags & _BASE and any(base))
        if unknown or not offset <= size < MAX_BYTES:
            raise StreamError(_NO_TOKEN)
        return cls(
            digest.hex(),
            size,
            bool(flags & _EXTERNAL_ORIGIN),
            base.hex() if flags & _BASE else None,
            offset,
        )

    def check(self, header: Header) -> None:
        """Refuse to go on with another stream than the one that was cut.

        Raises:
            WrongBaseError: It is another one.
        """
        identity, base = header.identity, header.base
        if not header.resumable:
            raise WrongBaseError(
                "the volume can change, or shows something that can: nothing proves that it "
                "still holds what was sent; send all of it, or a snapshot"
            )
        if self.digest != identity.digest or self.size_bytes != identity.size_bytes:
            raise WrongBaseError(
                f"the token is for another state ({self.digest[:12]}, {self.size_bytes} bytes) "
                f"than {identity.describe()} with {identity.size_bytes} bytes: send the one "
                "that was cut, or begin anew without the token"
            )
        if self.external_origin != identity.external_origin:
            raise WrongBaseError(
                "the token is for a volume whose external origin was given differently: use the "
                "same options as before, or begin anew without the token"
            )
        if self.base_digest != (None if base is None else base.digest):
            was = "no base" if self.base_digest is None else f"base {self.base_digest[:12]}"
            now = "none" if base is None else base.describe()
            raise WrongBaseError(
                f"the token is for a stream with {was}, and now it would be {now}: give the same "
                "base as before, or begin anew without the token"
            )


def _decode(text: str) -> bytes:
    """The bytes of a token, of which at least the version is there."""
    if not 8 <= len(text) <= MAX_CHARACTERS or not text.isascii():
        raise StreamError(_NO_TOKEN)
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise StreamError(_NO_TOKEN) from error
    # What the decoder passes over would make many texts the same token.
    if urlsafe_b64encode(raw).rstrip(b"=").decode() != text or len(raw) <= _CRC_BYTES:
        raise StreamError(_NO_TOKEN)
    return raw
