"""Talks to worker.py, which times single calls in thinmeta's own interpreter."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from measure import Sample

WORKER = Path(__file__).resolve().parent / "worker.py"


class CallFailed(Exception):
    """The call raised; the message names the exception."""


class Worker:
    """One warmed Python process that makes calls when it is told."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise CallFailed("no pipes")
        try:
            stdin.write(json.dumps({"call": name, **arguments}) + "\n")
            stdin.flush()
        except BrokenPipeError:
            raise CallFailed("the worker has ended") from None
        line = stdout.readline()
        if not line:
            raise CallFailed(f"the worker ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CallFailed(answer["error"])
        return answer

    def sample(self, name: str, **arguments: Any) -> Sample:
        """A call as one run; its peak is what it added to the process, where it says so."""
        try:
            answer = self.call(name, **arguments)
        except CallFailed as error:
            return Sample(failed=str(error)[:70])
        return Sample(answer["seconds"], answer["cpu"], answer.get("peak_kib", 0) / 1024)

    def has(self, module: str) -> bool:
        """Whether that interpreter can import a module."""
        try:
            return bool(self.call("has", module=module)["has"])
        except CallFailed:
            return False

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
