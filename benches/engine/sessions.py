"""Builds and starts what is measured, and talks to it.

Each engine runs in a process of its own and answers one request at a time; README.md has them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import Runner, Sample

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Failed(Exception):
    """A session could not be had, or could not do what it was asked."""


@dataclass
class Session:
    """One engine's process, started when it is first asked for anything."""

    name: str
    command: list[str]
    missing: str = ""  # why there is no such command
    said: dict[str, Any] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None

    @property
    def version(self) -> str:
        return str(self.said.get("version", ""))

    @property
    def shown(self) -> str:
        return f"{self.name} {self.version}".strip()

    def start(self) -> None:
        """Starts it; `missing` says why it could not be."""
        if self._process or self.missing:
            return
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent
        )
        try:
            self.said = self._answer()
        except Failed as error:
            self.missing = str(error)
            self.close()

    def ask(self, *words: object) -> dict[str, Any]:
        self.start()
        if self.missing or self._process is None or self._process.stdin is None:
            raise Failed(self.missing or "it is closed")
        try:
            self._process.stdin.write(" ".join(map(str, words)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed("the session has ended") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        if self._process is None or self._process.stdout is None:
            raise Failed("it is closed")
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the session ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def runner(self, asked: Asked, *words: object, before: tuple[object, ...] = ()) -> Runner:
        """A request as a run; its answer stays in `asked`."""

        def run() -> Sample:
            try:
                if before:
                    self.ask(*before)
                answer = self.ask(*words)
                asked.note(self.name, answer)
                if words[0] == "insert":
                    asked.note(self.name, self.ask("digest"))
            except Failed as error:
                return Sample(failed=str(error)[:70])
            return Sample(answer["seconds"], answer["cpu"])

        return run

    def close(self) -> None:
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait()
        self._process = None


@dataclass
class Asked:
    """What the engines answered in one cell: everything but the times must be as expected."""

    expected: dict[str, Any]
    heard: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def note(self, name: str, answer: dict[str, Any]) -> None:
        self.heard.setdefault(name, []).append(answer)

    def verdict(self) -> str:
        wrong = [
            name
            for name, answers in self.heard.items()
            if any(
                key in answer and answer[key] != value
                for answer in answers
                for key, value in self.expected.items()
            )
        ]
        if wrong:
            return "DIFFER: " + ", ".join(wrong)
        return "same" if self.heard else ""


def quiet(command: list[str | Path], why: str) -> str:
    """Runs a build; nothing when it went well, and otherwise why there is no such engine."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{why}: {error}"
    if done.returncode == 0:
        return ""
    print(done.stderr, file=sys.stderr)
    lines = done.stderr.strip().splitlines()
    return f"{why}: {next((line for line in lines if 'error' in line), 'it does not build')}"


def lmdb_c(folder: Path, built: Path) -> Session:
    program = built / "lmdb"
    compiler = shutil.which("cc")
    missing = "no C compiler"
    if compiler:
        source = HERE / "lmdb.c"
        missing = quiet(
            [compiler, "-O2", "-o", program, source, "-llmdb"], "apt-get install liblmdb-dev"
        )
    return Session("LMDB C", [str(program), str(folder / "lmdb-c")], missing)


def cargo_target() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def redb(folder: Path) -> Session:
    target = cargo_target() / "redb"
    command: list[str | Path] = ["cargo", "build", "--release", "--locked", "--quiet"]
    command += ["--manifest-path", HERE / "redb" / "Cargo.toml", "--target-dir", target]
    missing = quiet(command, "cargo") if shutil.which("cargo") else "no cargo"
    program = target / "release" / "thinmeta-bench-redb"
    return Session("redb", [str(program), str(folder / "redb")], missing)


def thinmeta_rust(folder: Path) -> Session:
    """Our crate with no Python in the way."""
    if not (HERE / "thinmeta.rs").exists():
        return Session("thinmeta Rust", [], "no thinmeta::store in this build")
    command = ["cargo", "build", "--profile", "bench", "--locked", "--quiet", "--bench", "engine"]
    command += ["--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            return Session("thinmeta Rust", [message["executable"], str(folder / "rust")])
    return Session("thinmeta Rust", [], "cargo build --bench engine fails")


def python_session(name: str, python: Path, folder: Path) -> Session:
    place = folder / name.replace(" ", "-")
    return Session(name, [str(python), "-m", "engine.session", name, str(place)])
