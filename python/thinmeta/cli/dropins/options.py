"""The command lines of the peers: those of both generations, and what has become of them.

Unlike for our own commands, options that stand twice are refused, as 1.x does; ``-m`` may
carry a block joined to it, with or without ``=``; and ``-m BLOCK DEVICE``, as old manuals
have it, means the same.
"""

from __future__ import annotations

import errno
import os

from thinmeta.cli.options import did_you_mean
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal, TypedDict

    from thinmeta.pool import Pool

    class Overrides(TypedDict):
        """Numbers that options give, if they do."""

        transaction_id: int | None
        data_block_size_sectors: int | None
        data_blocks: int | None
        only_raise: bool


__all__ = [
    "MAX_U32",
    "MAX_U64",
    "NEW_METADATA",
    "QUIET",
    "SNAPSHOT",
    "Option",
    "Parsed",
    "WrongLineError",
    "parse",
]

MAX_U32, MAX_U64 = (1 << 32) - 1, (1 << 64) - 1
#: The smallest output that 1.x takes: ten blocks.
LEAST_OUTPUT = 10 * 4096


class WrongLineError(UsageError):
    """The command line of a drop-in is wrong, whatever it is used on."""


class Option:
    """One option of a peer.

    Attributes:
        names: Its names with dashes, the long one by which it is asked for first.
        takes: ``"nothing"``; ``"a word"``, joined or the next one; ``"maybe"``, only a
            joined one.
        joined: Of ``"maybe"``, what may follow the letter without ``=``: these words, or
            any number.
        repeats: Whether it may stand more than once.
    """

    __slots__ = ("joined", "names", "repeats", "takes")

    def __init__(
        self,
        *names: str,
        takes: Literal["nothing", "a word", "maybe"] = "nothing",
        joined: tuple[str, ...] = (),
        repeats: bool = False,
    ) -> None:
        self.names, self.takes, self.joined, self.repeats = names, takes, joined, repeats

    def may_join(self, word: str) -> bool:
        """Whether a word right behind the option's letter is its value."""
        if self.takes == "nothing":
            return False
        return self.takes == "a word" or word in self.joined or _is_digits(word)


HELP = Option("--help", "-h")
VERSION = Option("--version", "-V")
QUIET = Option("--quiet", "-q")
#: 1.x and 0.9 call it ``--metadata-snap``, their manuals ``--metadata-snapshot`` as well.
SNAPSHOT = Option("--metadata-snap", "--metadata-snapshot", "-m", takes="maybe")


#: Of the programs that make metadata anew.
NEW_METADATA = (
    QUIET,
    Option("--input", "-i", takes="a word"),
    Option("--output", "-o", takes="a word"),
    Option("--transaction-id", takes="a word"),
    Option("--data-block-size", takes="a word"),
    Option("--nr-data-blocks", takes="a word"),
)


class Parsed:
    """What a command line says; options are known by their long names without dashes."""

    __slots__ = ("_values", "name", "words")

    def __init__(self, name: str) -> None:
        self.name = name
        self.words: list[str] = []
        self._values: dict[str, list[str]] = {}

    def add(self, option: Option, word: str, value: str) -> None:
        """Take note of an option that was written as ``word``."""
        values = self._values.setdefault(option.names[0][2:], [])
        if values and not option.repeats:
            raise self.wrong(f"{word} was given more than once")
        values.append(value)

    def has(self, long: str) -> bool:
        """Whether an option was given."""
        return long in self._values

    def value(self, long: str) -> str | None:
        """An option's value."""
        values = self._values.get(long)
        return values[-1] if values else None

    def values(self, long: str) -> list[str]:
        """All values of an option that may be repeated."""
        return self._values.get(long, [])

    def needed(self, long: str) -> str:
        """The value of an option that may not be left out."""
        value = self.value(long)
        if value is None:
            raise self.wrong(f"--{long} is missing")
        return value

    def output(self) -> str:
        """Where to write: a device or a file that is there, as for the peers."""
        path = self.needed("output")
        if not os.path.exists(path):
            code = errno.ENOENT
            what = "the output has to be there, and as large as the metadata are to be"
            raise OSError(code, f"{os.strerror(code)}: {what}", path)
        if os.path.isfile(path) and (size_bytes := os.path.getsize(path)) < LEAST_OUTPUT:
            raise UsageError(
                f"{path} has {size_bytes} bytes: the output has to be as large as the metadata "
                f"are to be, at least {LEAST_OUTPUT} bytes; nothing written"
            )
        return path

    def number(self, long: str, most: int = MAX_U64) -> int | None:
        """An option's value, which has to be a whole number."""
        numbers = self.numbers(long, most)
        return numbers[-1] if numbers else None

    def numbers(self, long: str, most: int = MAX_U64) -> list[int]:
        """All values of an option that may be repeated, as whole numbers."""
        numbers = []
        for word in self._values.get(long, []):
            digits = word.removeprefix("+")
            if not _is_digits(digits) or len(digits) > 20 or int(digits) > most:
                raise self.wrong(f"--{long} takes a number up to {most}, not {word!r}")
            numbers.append(int(digits))
        return numbers

    def overrides(self) -> Overrides:
        """What is to be taken in the place of what the input says."""
        return {
            "transaction_id": self.number("transaction-id"),
            "data_block_size_sectors": self.number("data-block-size", MAX_U32),
            "data_blocks": self.number("nr-data-blocks"),
            "only_raise": True,
        }

    def refuse_together(self, one: str, *others: str) -> None:
        """Raise if an option stands beside one that it excludes."""
        for other in others:
            if self.has(one) and self.has(other):
                raise self.wrong(f"--{one} and --{other} exclude each other")

    def snapshot(self) -> Literal["held"] | int | None:
        """Which metadata snapshot ``-m`` asks for, as the API takes it."""
        word = self.value("metadata-snap")
        return word if word is None else "held" if word == "" else self.number("metadata-snap")

    def open_pool(self) -> Pool:
        """Open the metadata that the command line names."""
        from thinmeta.pool import open_pool

        return open_pool(self.words[0], metadata_snapshot=self.snapshot())

    def wrong(self, what: str) -> WrongLineError:
        """An error of this command line."""
        return WrongLineError(f"{self.name}: {what}; see 'thinmeta {self.name} --help'")

    def finish(self, names: tuple[str, ...]) -> None:
        """Make sure that as many words are left as there should be.

        The block of a metadata snapshot may stand before the device.
        """
        if self._values.get("metadata-snap") == [""] and len(self.words) == len(names) + 1:
            for index, word in enumerate(self.words):
                if _is_digits(word) and names:
                    self._values["metadata-snap"] = [self.words.pop(index)]
                    break
        if len(self.words) < len(names):
            raise self.wrong(f"{names[len(self.words)]} is missing")
        if len(self.words) > len(names):
            raise self.wrong(f"one word too many: {self.words[len(names)]!r}")


def parse(
    name: str, arguments: list[str], options: tuple[Option, ...], names: tuple[str, ...]
) -> Parsed:
    """Read a peer's command line; ``--help`` and ``--version`` waive the rest of it.

    Args:
        name: The program.
        arguments: The words after its name.
        options: What it takes, besides those two.
        names: What its words are called.

    Raises:
        WrongLineError: An unknown option, a missing value, too few or too many words.
    """
    table = {word: option for option in (HELP, VERSION, *options) for word in option.names}
    parsed = Parsed(name)
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            parsed.words.extend(rest)
        elif argument.startswith("--"):
            _long(parsed, table, argument, rest)
        elif argument.startswith("-") and len(argument) > 1:
            _letters(parsed, table, argument, rest)
        elif argument:  # LVM passes an empty word where no options are configured
            parsed.words.append(argument)
    if not parsed.has("help") and not parsed.has("version"):
        parsed.finish(names)
    return parsed


def _long(parsed: Parsed, table: dict[str, Option], argument: str, rest: Iterator[str]) -> None:
    word, equals, value = argument.partition("=")
    option = _find(parsed, table, word)
    if equals and option.takes == "nothing":
        raise parsed.wrong(f"{word} takes no value")
    if equals and not value:
        raise parsed.wrong(f"{word} needs a value after the '='")
    if not equals and option.takes == "a word":
        value = _next(parsed, rest, word)
    parsed.add(option, word, value)


def _letters(parsed: Parsed, table: dict[str, Option], argument: str, rest: Iterator[str]) -> None:
    letters = argument[1:]
    while letters:
        word, letters = f"-{letters[0]}", letters[1:]
        option = _find(parsed, table, word)
        value = ""
        if letters.startswith("=") and option.takes != "nothing":
            value, letters = letters[1:], ""
            if not value:
                raise parsed.wrong(f"{word} needs a value after the '='")
        elif letters and option.may_join(letters):
            value, letters = letters, ""
        elif option.takes == "a word":
            value = _next(parsed, rest, word)
        parsed.add(option, word, value)


def _find(parsed: Parsed, table: dict[str, Option], word: str) -> Option:
    option = table.get(word)
    if option is None:
        raise parsed.wrong(f"there is no option {word!r}{did_you_mean(word, table)}")
    return option


def _next(parsed: Parsed, rest: Iterator[str], word: str) -> str:
    value = next(rest, None)
    if value is None or (value.startswith("-") and len(value) > 1):
        raise parsed.wrong(f"{word} needs a value")
    return value


def _is_digits(word: str) -> bool:
    return word.isascii() and word.isdigit()
