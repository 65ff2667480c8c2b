"""A terminal to look at: what a program draws into it, as lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from dataclasses import dataclass
from pathlib import Path

from tests.terminal import command, environment

_ESCAPE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a program wrote into a terminal."""

    code: int
    text: str  # all of it, as it was written
    frames: tuple[str, ...]  # the screen whenever it was looked at; the last one is the final one

    @property
    def final(self) -> list[str]:
        return self.frames[-1].splitlines()


class Screen:
    """Understands what rich draws with: lines, the cursor up, and lines that are erased."""

    def __init__(self) -> None:
        self.lines, self.row, self.column = [""], 0, 0
        self._rest = ""

    def write(self, text: str) -> None:
        text, self._rest = self._rest + text, ""
        while text:
            if text.startswith("\x1b"):
                found = _ESCAPE.match(text)
                if found is None:
                    assert len(text) < 20, f"an escape that is not known: {text[:20]!r}"
                    self._rest = text
                    return
                self._escape(*found.groups())
                text = text[found.end() :]
            else:
                self._put(text[0])
                text = text[1:]

    def _escape(self, given: str, kind: str) -> None:
        number = int(given) if given.isdigit() else 1
        if kind == "A":
            assert number <= self.row, "drawn above the first line"
            self.row -= number
        elif kind == "K":
            assert given == "2"
            self.lines[self.row] = ""
        else:
            assert kind in "mhl", (given, kind)  # colours; the cursor is shown or not

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.lines):
                self.lines.append("")
        else:
            assert character.isprintable(), repr(character)
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def shown(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)


def watch(
    folder: Path,
    *words: str,
    columns: int = 100,
    rows: int = 40,
    seconds: float = 300,
    **extra: str,
) -> Seen:
    """Runs `plinio-sweep` in a terminal of its own until it ends."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    kept = {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **extra}
    found = environment(**kept)
    # Otherwise the size is what these say; and colours are for the test to ask for.
    for name in ("COLUMNS", "LINES", *({"NO_COLOR", "FORCE_COLOR"} - set(extra))):
        found.pop(name, None)
    process = subprocess.Popen(
        command(*words), cwd=folder, env=found, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        text, frames = _read(ours)
        return Seen(code=process.wait(30), text=text, frames=tuple(frames))
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        os.close(ours)


def _read(ours: int) -> tuple[str, list[str]]:
    screen, frames, parts = Screen(), [], list[str]()
    end, rest = time.monotonic() + 300.0, b""
    with contextlib.suppress(OSError):  # EIO: nobody writes any more
        while time.monotonic() < end:
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            rest += os.read(ours, 65536)
            text = rest.decode("utf-8", "ignore")
            rest = rest[len(text.encode()) :]  # half a character waits for its other half
            parts.append(text)
            screen.write(text)
            frames.append(screen.shown())
    return "".join(parts), frames
