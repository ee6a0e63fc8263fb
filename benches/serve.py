"""What the sessions share: they answer one request at a time, a line each, and time themselves."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection
from typing import Any, TextIO, TypeAlias

Answer: TypeAlias = dict[str, Any]


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    cpu, start = time.process_time(), time.perf_counter()
    result = call()
    return result, {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def only_answers() -> TextIO:
    """Stdout for the answers: whatever else is printed must not mix with them."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def tell(answers: TextIO, answer: Answer) -> None:
    answers.write(json.dumps(answer) + "\n")


def serve(answers: TextIO, session: object, requests: Collection[str]) -> None:
    """Answers what is asked on stdin: the name of a method and its arguments."""
    for line in sys.stdin:
        tell(answers, answer(session, requests, line.split()))


def answer(session: object, requests: Collection[str], words: list[str]) -> Answer:
    if words[0] not in requests:
        return {"error": f"cannot {words[0]}"}
    try:
        result: Answer = getattr(session, words[0])(*words[1:])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return result
