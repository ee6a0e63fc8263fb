"""Scripts of ``thinmeta edit``: one change a line, in JSON.

A script is read line by line and never held whole. All of it is input: a line is exactly
one operation with all of its fields and no other, or it is a mistake that is named.
"""

from __future__ import annotations

import json

from thinmeta.cli.failures import LineError
from thinmeta.cli.options import did_you_mean
from thinmeta.errors import ThinmetaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from thinmeta.transaction import PoolTransaction

__all__ = ["MAX_LINE_BYTES", "OPERATIONS", "perform", "read_operation"]

MAX_LINE_BYTES = 1 << 20
MAX_U64 = (1 << 64) - 1

#: What a line may ask for: methods of a transaction, and their arguments.
OPERATIONS: dict[str, tuple[str, ...]] = {
    "create_thin": ("device_id",),
    "create_snapshot": ("device_id", "origin_id"),
    "delete": ("device_id",),
    "insert": ("device_id", "virtual_block", "data_block"),
    "remove": ("device_id", "virtual_block"),
    "remove_range": ("device_id", "begin", "end"),
    "set_transaction_id": ("expected", "new"),
    "grow_data": ("blocks",),
    "grow_metadata": ("blocks",),
    "reserve_metadata_snapshot": (),
    "release_metadata_snapshot": (),
}


def perform(script: BinaryIO, name: str, txn: PoolTransaction) -> dict[str, int]:
    """Do what a script says, in a transaction that is committed or not by the caller.

    Args:
        script: Its bytes.
        name: What to call it in errors.
        txn: Where to make the changes.

    Returns:
        How often each operation was done, those that were.

    Raises:
        LineError: Something about a line; its cause is what.
        OSError: The script cannot be read.
    """
    done: dict[str, int] = {}
    for number, line in _lines(script, name):
        try:
            operation = read_operation(line)
            if operation is None:
                continue
            method, fields = operation
            getattr(txn, method)(**fields)
        except Exception as error:
            raise LineError(f"{name}: line {number}") from error
        done[method] = done.get(method, 0) + 1
    return done


def _lines(script: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    while True:
        try:
            # One byte more, to tell a line that is as long as allowed from a longer one.
            line = script.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            error.filename = name
            raise
        if not line:
            return
        number += 1
        yield number, line


def read_operation(line: bytes) -> tuple[str, dict[str, int]] | None:
    """What a line asks for, or ``None`` for an empty line or a comment.

    Raises:
        ThinmetaError: It is neither; the message says what is wrong.
    """
    if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
        raise ThinmetaError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise ThinmetaError(f"not UTF-8 at byte {error.start + 1}") from error
    if not text or text.startswith("#"):
        return None
    value = _object(text)
    if "op" not in value:
        raise ThinmetaError("there is no 'op', which says what to do")
    name = value.pop("op")
    if not isinstance(name, str):
        raise ThinmetaError(f"'op' must be a string, not {_shown(name)}")
    if name not in OPERATIONS:
        hint = did_you_mean(name, OPERATIONS)
        raise ThinmetaError(f"there is no operation {_shown(name)}{hint}")
    wanted = OPERATIONS[name]
    for field in wanted:
        if field not in value:
            raise ThinmetaError(f"{name} needs {field!r}")
    for field, number in value.items():
        if field not in wanted:
            raise ThinmetaError(f"{name} takes no {_shown(field)}{did_you_mean(field, wanted)}")
        if type(number) is not int:  # a bool is none, though Python says so
            raise ThinmetaError(f"{field!r} must be a whole number, not {_shown(number)}")
        if not 0 <= number <= MAX_U64:
            raise ThinmetaError(f"{field!r} must be from 0 to {MAX_U64}, not {_shown(number)}")
    return name, value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_without_repetition)
    except json.JSONDecodeError as error:
        raise ThinmetaError(f"not JSON: {error.msg}, at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise ThinmetaError("not JSON that can be read: a value is too long or too deep") from error
    if not isinstance(value, dict):
        raise ThinmetaError(f"not a JSON object but {_shown(value)}")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ThinmetaError(f"{_shown(twice)} is there twice")
    return value


def _shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "one too deep to be shown"
    return text if len(text) <= 40 else f"{text[:37]}..."
