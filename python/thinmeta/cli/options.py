"""Options and words of a command line.

A parser of our own, and not argparse, for two reasons: importing argparse takes
longer than a whole check of a small pool, and it cannot have an option like ``-m``
that may carry a value but never takes the next word.
"""

from __future__ import annotations

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

__all__ = [
    "CHANGING",
    "REPAIR_NUMBERS",
    "Option",
    "Parsed",
    "block_number",
    "buffer_size",
    "device_number",
    "did_you_mean",
    "parse",
    "repair_numbers",
    "size",
    "whole_number",
]

MAX_DEVICE_ID = (1 << 24) - 1


class Option:
    """One option of a command.

    Attributes:
        long: Its long name without dashes.
        short: Its letter, or empty.
        takes: ``"nothing"``; ``"a word"``, joined or the next one; ``"maybe"``, only a
            joined one, and ``bare`` without.
        bare: The value of a ``"maybe"`` option that stands alone.
    """

    __slots__ = ("bare", "long", "short", "takes")

    def __init__(
        self,
        long: str,
        short: str = "",
        *,
        takes: Literal["nothing", "a word", "maybe"] = "nothing",
        bare: str = "",
    ) -> None:
        self.long, self.short, self.takes, self.bare = long, short, takes, bare


#: Options of every command that reads, and of every one that changes a pool: a metadata
#: snapshot cannot be changed.
READING = (
    Option("help", "h"),
    Option("json"),
    Option("metadata-snapshot", "m", takes="maybe", bare="held"),
)
CHANGING = (Option("help", "h"), Option("json"), Option("dry-run", "n"))


class Parsed:
    """What a command line says."""

    __slots__ = ("_values", "command", "words")

    def __init__(self, command: str, words: list[str], values: dict[str, list[str]]) -> None:
        self.command, self.words, self._values = command, words, values

    def has(self, long: str) -> bool:
        """Whether an option was given."""
        return long in self._values

    def value(self, long: str) -> str | None:
        """An option's value, the last if it was given more than once."""
        values = self._values.get(long)
        return values[-1] if values else None

    def values(self, long: str) -> list[str]:
        """All values of an option that may be repeated."""
        return self._values.get(long, [])

    def metadata_snapshot(self) -> Literal["held"] | int | None:
        """The value of ``-m``, as the API takes it."""
        value = self.value("metadata-snapshot")
        if value is None:
            return None
        if value == "held":
            return "held"
        return block_number(value, "-m/--metadata-snapshot")


def parse(
    command: str,
    arguments: list[str],
    options: Iterable[Option],
    names: tuple[str, ...],
    *,
    common: tuple[Option, ...] = READING,
    optional: int = 0,
) -> Parsed:
    """Read a command's options and words; ``--help`` waives the words.

    Args:
        command: Its name, for messages.
        arguments: The words after the command's name.
        options: What it takes besides the options of every command.
        names: What its words are called; each has to be there, but for ``optional``.
        common: The options of every command of its kind.
        optional: How many of the last words may be left out.

    Raises:
        UsageError: An unknown option, a missing value, too few or too many words.
    """
    table = {f"--{option.long}": option for option in (*common, *options)}
    table |= {f"-{option.short}": option for option in table.values() if option.short}
    words: list[str] = []
    values: dict[str, list[str]] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            words.extend(rest)
        elif argument.startswith("--"):
            name, equals, value = argument.partition("=")
            option = _find(table, name, command)
            if option.takes == "nothing" and equals:
                raise _wrong(command, f"{name} takes no value")
            if option.takes == "a word" and not equals:
                value = _next(rest, name, command)
            elif option.takes == "maybe" and not equals:
                value = option.bare
            values.setdefault(option.long, []).append(value)
        elif argument.startswith("-") and len(argument) > 1:
            letters = argument[1:]
            while letters:
                name, letters = f"-{letters[0]}", letters[1:]
                option = _find(table, name, command)
                value = ""
                if option.takes != "nothing":
                    joined = letters[:1] == "="
                    value, letters = letters.removeprefix("="), ""
                    if not value and not joined:
                        maybe = option.takes == "maybe"
                        value = option.bare if maybe else _next(rest, name, command)
                values.setdefault(option.long, []).append(value)
        else:
            words.append(argument)
    if "help" not in values:
        if len(words) < len(names) - optional:
            raise _wrong(command, f"{names[len(words)]} is missing")
        if len(words) > len(names):
            raise _wrong(command, f"one word too many: {words[len(names)]!r}")
    return Parsed(command, words, values)


def _find(table: dict[str, Option], name: str, command: str) -> Option:
    option = table.get(name)
    if option is None:
        raise _wrong(command, f"there is no option {name!r}{did_you_mean(name, table)}")
    return option


def _next(rest: Iterable[str], name: str, command: str) -> str:
    value = next(iter(rest), None)
    # No option is a digit: -7 is a number.
    if value is None or (value.startswith("-") and len(value) > 1 and not value[1:].isdigit()):
        raise _wrong(command, f"{name} needs a value")
    return value


def _wrong(command: str, what: str) -> UsageError:
    return UsageError(f"{command}: {what}; see 'thinmeta {command} --help'")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word, or nothing."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _digits(word: str, what: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise UsageError(f"{what} must be a number, not {word!r}")
    if len(word) > 20:
        raise UsageError(f"{what} must be below 2^64, not {word[:20]}…")
    return int(word)


def whole_number(word: str, what: str) -> int:
    """A number of 64 bits from the command line."""
    number = _digits(word, what)
    if number >= 1 << 64:
        raise UsageError(f"{what} must be below 2^64, not {word}")
    return number


def block_number(word: str, what: str) -> int:
    """The number of a metadata block from the command line."""
    block = _digits(word, what)
    if block == 0 or block >= 1 << 64:
        raise UsageError(f"{what} cannot be block {block}")
    return block


def device_number(word: str, what: str) -> int:
    """A thin device's id from the command line, 24 bits."""
    device_id = _digits(word, what)
    if device_id > MAX_DEVICE_ID:
        raise UsageError(f"{what} must be a device id, 0 to {MAX_DEVICE_ID}, not {word}")
    return device_id


#: What a repair may be told of a pool.
REPAIR_NUMBERS = (
    Option("transaction-id", takes="a word"),
    Option("data-block-size", takes="a word"),
    Option("nr-data-blocks", takes="a word"),
)


def repair_numbers(parsed: Parsed) -> dict[str, int | None]:
    """The values of :data:`REPAIR_NUMBERS`, as the API calls them."""
    names = ("transaction_id", "data_block_size_sectors", "data_blocks")
    given = [(option.long, parsed.value(option.long)) for option in REPAIR_NUMBERS]
    return {
        name: None if word is None else whole_number(word, f"--{long}")
        for name, (long, word) in zip(names, given, strict=True)
    }


def size(word: str, what: str) -> int:
    """A size in bytes from the command line: ``65536``, ``64K``, ``10GiB``, ``8s`` (sectors)."""
    number = word.rstrip("BIKMGTPSbikmgtps")
    suffix = word[len(number) :].lower()
    for factor, forms in ((1, ("", "b")), (512, ("s",))):
        if suffix in forms:
            return _limited(_digits(number, what) * factor, what)
    shift = 10 * ("kmgtp".find(suffix[0]) + 1)
    if shift == 0 or suffix[1:] not in ("", "ib"):
        raise UsageError(f"{what}: unknown unit in {word!r}; use for example 65536, 64K or 10GiB")
    return _limited(_digits(number, what) << shift, what)


def buffer_size(parsed: Parsed) -> int | None:
    """The value of ``--buffer-size``, in bytes, of which there has to be one at least."""
    word = parsed.value("buffer-size")
    found = None if word is None else size(word, "--buffer-size")
    if found == 0:
        raise UsageError(f"{parsed.command}: --buffer-size: the buffers cannot be empty")
    return found


def _limited(count: int, what: str) -> int:
    if count >= 1 << 63:
        raise UsageError(f"{what}: {count} bytes are more than any volume can have")
    return count
