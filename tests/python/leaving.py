"""Leaving `with` blocks by an exception, on purpose."""

from types import TracebackType


class Leave(Exception):
    """Why a `with` block is left."""


class left:  # noqa: N801 # reads as a word: `with left(), lock: ...`
    """Around `with` blocks that are left by raising `Leave`."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert raised is not None, "Leave was not raised, or somebody kept it"
        return raised is Leave
