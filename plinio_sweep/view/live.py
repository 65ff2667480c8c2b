"""A run as it is seen: a screen that lives in a terminal, and lines where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from plinio_sweep.settings import redacted
from plinio_sweep.view import layout
from plinio_sweep.view.standing import standing
from plinio_sweep.view.tally import Tally

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from plinio_sweep.sweep.result import StudyRecord

FRAMES = 2  # a second: the cores are for the workers
PAUSE = 5.0  # [s] at least, between two looks into the database
SHARE = 0.02  # at most, of the time that looks may take
PATIENCE = 2.0  # [s] at the end, for a look that is under way
LEAST_STEP = 5  # trials between two lines that say how far it is

# Never the only thing that tells: it can all be read without colour.
_STYLES = (
    (r"[━╸]", "green"),
    (r"[─│┤└]", "dim"),
    (r"[\u2801-\u28ff]", "cyan"),
    (r"●", "bold cyan"),
    (r"◇", "yellow"),
    (r"\b[1-9]\d* failed", "red"),
    (r"\b[1-9]\d* tried again", "yellow"),
    (r"best per budget", "bold"),
)


class LiveView:
    """Shows a run: events as lines, and below them, in a terminal, how far it is.

    Args:
        before: The study as the run finds it.
        workers: How many there are.
        read: Reads the study as it stands by then; called from a thread of its own in a terminal.
    """

    def __init__(
        self, before: StudyRecord, *, workers: int, read: Callable[[], StudyRecord]
    ) -> None:
        self._read = read
        self._tally = Tally(before.target_trials, workers, standing(before), time.monotonic())
        # A share of the trials, so that a long log has as many of these lines as a short one.
        self._step = max(LEAST_STEP, -(-before.target_trials // 10))
        self._steps = self._tally.done // self._step
        self._console: Console | None = None  # none where there is no terminal
        self._live: Live | None = None
        self._lines: list[str] = []  # that were drawn last
        self._looks: _Looks | None = None

    def __enter__(self) -> LiveView:
        from rich.console import Console
        from rich.live import Live

        console = Console()
        # `is_terminal` also says what variables such as FORCE_COLOR want: colours in a log, maybe,
        # but not a screen that is drawn there again and again.
        if console.is_terminal and console.file.isatty() and not console.is_dumb_terminal:
            self._console = console
            self._looks = _Looks(self._look)
            self._live = Live(
                get_renderable=self._drawn,
                console=console,
                refresh_per_second=FRAMES,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None and self._looks is not None:
            self._live.stop()
            self._looks.stop()

    @property
    def trained(self) -> int:
        """Epochs that were trained in this run."""
        return self._tally.trained

    @property
    def reused(self) -> int:
        """Epochs that were taken from the store instead."""
        return self._tally.reused

    def say(self, text: str) -> None:
        """A line above the screen."""
        # One line an event, whatever a library has put into its error: no control characters.
        text = "".join(c if c.isprintable() else " " for c in redacted(text))
        if self._console is None:
            click.echo(text)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def hear(self, worker: int, event: Mapping[str, Any]) -> None:
        """Shows one event of one worker."""
        self._tally.hear(worker, event, time.monotonic())
        kind = event.get("event")
        if kind == "failed":
            self.say(f"trial {event['trial']} failed: {event['reason']}")
        elif kind == "lost":
            self.say(f"trial {event['trial']} is taken up again: {event['reason']}")
        elif kind == "taken":
            self.say(f"trial {event['trial']} was given to another worker meanwhile")
        elif kind == "baseline failed":
            self.say(f"baseline {event['name']} failed: {event['reason']}")
        elif kind == "warning":
            self.say(str(event["text"]))
        elif kind == "complete" and self._console is None:
            self.say(f"trial {event['trial']} complete: {event['values']}")
        if kind in ("complete", "failed", "baseline"):
            self._changed()

    def _changed(self) -> None:
        """What is stored has changed."""
        if self._looks is not None:
            self._looks.wake()
        elif self._tally.done // self._step > self._steps and self._tally.done < self._tally.target:
            self._steps = self._tally.done // self._step
            self._look()
            self.say(layout.plain(self._tally, time.monotonic()))

    def _look(self) -> None:
        try:
            self._tally.standing = standing(self._read())
        except Exception:
            # A database that is away is for the workers to wait for; the screen stays as it was.
            return

    def _drawn(self) -> Text:
        from rich.text import Text

        assert self._console is not None
        size = self._console.size
        # The last column stays free: some terminals begin a new line when it is written to.
        self._unfold(size.width)
        self._lines = layout.screen(self._tally, time.monotonic(), size.width - 1, size.height)
        text = "\n".join(self._lines)
        if not self._console.encoding.startswith("utf"):
            text = text.translate(layout.ASCII).encode("ascii", "replace").decode("ascii")
        drawn = Text(text, no_wrap=True, overflow="crop")
        for pattern, style in _STYLES:
            drawn.highlight_regex(pattern, style)
        return drawn

    def _unfold(self, width: int) -> None:
        """Erases what is left over where the terminal was made narrower, and has folded lines."""
        from rich.control import Control
        from rich.segment import ControlType

        assert self._console is not None
        folds = sum((len(line) - 1) // width for line in self._lines if line)
        for _ in range(folds):
            step = Control((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
            self._console.control(step)


class _Looks:
    """Calls `look` some time after it was woken, on a thread of its own, and not too often."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._woken, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something new to be seen."""
        self._woken.set()

    def stop(self) -> None:
        """Ends the thread, unless it waits for a database: then it ends with the program."""
        self._stopped.set()
        self._woken.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while self._woken.wait() and not self._stopped.is_set():
            self._woken.clear()
            begun = time.monotonic()
            self._look()
            self._stopped.wait(max(PAUSE, (time.monotonic() - begun) / SHARE))
