"""What is logged, to ``thinmeta.stream``; ``logging`` is imported only for that."""

from __future__ import annotations

__all__ = ["log"]


def log(message: str, *arguments: object) -> None:
    """Take note of something that goes well."""
    import logging

    logging.getLogger("thinmeta.stream").info(message, *arguments)
