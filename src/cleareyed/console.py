"""What a run shows while it lives: a live display on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Mapping
from itertools import pairwise
from types import TracebackType
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
LINE_EVERY_STEPS = 10
LINE_EVERY_SECONDS = 15.0
SHOWN = (  # metric, heading, format
    ("reward", "reward", "{:.2f}"),
    ("loss", "loss", "{:.3f}"),
    ("accuracy", "accuracy", "{:.0%}"),
    ("token_accuracy", "token accuracy", "{:.0%}"),
    ("format_rate", "format", "{:.0%}"),
    ("completion_tokens", "tokens", "{:.1f}"),
    ("entropy", "entropy", "{:.2f}"),
    ("kl", "KL", "{:.4f}"),
    ("tokens_per_second", "tokens/s", "{:,.0f}"),
    ("validation/accuracy", "validation", "{:.1%}"),
)
CURVES = (("reward", "reward"), ("loss", "loss"), ("completion_tokens", "tokens"))


class Display:
    """Shows training and measurement as they go; an `Observer` (`cleareyed.training.observe`).

    Use it in a `with` statement. On a terminal it redraws a few lines in place; elsewhere it prints one line about
    every ten steps and, in between, one about every fifteen seconds.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.console = console or Console()
        self._title = title
        self._started = time.monotonic()
        self._phase, self._phase_done, self._phase_total, self._phase_started = "starting", 0, 0, self._started
        self._phase_detail: str | None = None
        self._step, self._steps = 0, 0
        self._first: tuple[int, float] | None = None
        """The first step seen, and when it ended: the rate is measured from there."""
        self._latest: dict[str, float] = {}
        self._history: dict[str, list[float]] = {name: [] for name, _ in CURVES}
        self._last_line = self._started
        self._live = (
            Live(console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True)
            if self.console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """A line that stays, above the live display."""
        self.console.print(Text(text), soft_wrap=True)
        self._last_line = time.monotonic()

    def start(self, title: str) -> None:
        """Begin another training: its steps and curves start anew."""
        self._title = title
        self._step, self._steps, self._first = 0, 0, None
        self._latest = {}
        self._history = {name: [] for name, _ in CURVES}

    def status(self, what: str, done: int, total: int, detail: str | None = None) -> None:
        """What is being done now, and how far it is; `detail` is shown in place of the time left at this rate."""
        if what != self._phase or done < self._phase_done:
            self._phase, self._phase_started = what, time.monotonic()
        self._phase_done, self._phase_total, self._phase_detail = done, total, detail
        if self._live is None and time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            shown = self._detail() if done < total else ""
            step = f"step {self._step}/{self._steps}  " if self._steps and self._step < self._steps else ""
            self.note(f"{step}{what} {done}/{total}{f'  {shown}' if shown else ''}")

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """A training step has ended, with these metrics."""
        self._step, self._steps = step, total
        if self._first is None:
            self._first = (step, time.monotonic())
        self._latest.update({name: value for name, value in metrics.items() if value is not None})
        for name, values in self._history.items():
            if metrics.get(name) is not None:
                values.append(metrics[name])
        if "reward" in metrics:  # GRPO's loss says nothing: it is near 0 by construction
            self._latest.pop("loss", None)
            self._history["loss"].clear()
        if metrics.get("skipped"):
            self.note(f"step {step}: an update was skipped, its loss or gradient not finite; samples: skipped.jsonl")
        if self._live is None and (step % LINE_EVERY_STEPS == 0 or step in (1, total)):
            shown = "  ".join(f"{heading} {text}" for heading, text in self._shown())
            self.note(f"step {step}/{total}  {shown}  {self._rate()}".rstrip())

    def _shown(self) -> list[tuple[str, str]]:
        return [(heading, form.format(self._latest[name])) for name, heading, form in SHOWN if name in self._latest]

    def _rate(self) -> str:
        """Seconds a step, and the time that is left at this rate."""
        if self._first is None or self._step <= self._first[0]:
            return ""
        steps, seconds = self._step - self._first[0], time.monotonic() - self._first[1]
        left = remaining(steps, self._steps - self._step, seconds)
        return f"{seconds / steps:.1f} s/step" + (f"  {left} left" if left and self._step < self._steps else "")

    def _detail(self) -> str:
        if self._phase_detail is not None:
            return self._phase_detail
        left = remaining(
            self._phase_done, self._phase_total - self._phase_done, time.monotonic() - self._phase_started
        )
        return f"{left} left" if left else ""

    def _render(self) -> RenderableType:
        lines = Table.grid(padding=(0, 2))
        lines.add_column(no_wrap=True)
        if self._steps:
            bar = ProgressBar(total=self._steps, completed=self._step, width=20)
            lines.add_row("training", bar, f"{self._step}/{self._steps}", Text(self._rate()))
        bar = ProgressBar(total=max(self._phase_total, 1), completed=self._phase_done, width=20)
        count = f"{self._phase_done}/{self._phase_total}" if self._phase_total else ""
        lines.add_row(Text(self._phase), bar, count, Text(self._detail()))
        parts: list[RenderableType] = [lines]
        if self._latest:
            parts.append(Columns([Text(f"{heading} {text}") for heading, text in self._shown()], padding=(0, 3)))
            for name, heading in CURVES:
                if len(self._history[name]) > 1:
                    parts.append(Text(f"{heading:>7} {sparkline(self._history[name], 48)}", style="cyan"))
        elapsed = clock(time.monotonic() - self._started)
        return Panel(Group(*parts), title=Text(self._title), subtitle=Text(elapsed), title_align="left")


def table_console() -> Console:
    """A console for tables: the terminal's width, or 120 columns where there is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def say(text: str) -> None:
    """A line on the terminal, whatever is in it."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def sparkline(values: list[float], width: int) -> str:
    """The whole history in at most `width` characters, each the mean of its stretch, from lowest to highest."""
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def remaining(done: int, left: int, seconds: float) -> str:
    """The time that `left` more will take if `done` took `seconds`; empty if that cannot be said."""
    return clock(seconds / done * left) if done > 0 else ""


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
