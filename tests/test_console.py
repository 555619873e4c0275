"""The display: lines where there is no terminal, a drawing where there is one."""

import io

import pytest
from rich.console import Console

from cleareyed.console import Display, clock, remaining, sparkline


def test_sparkline_shows_the_whole_history_between_lowest_and_highest() -> None:
    assert sparkline([0.0, 1.0, 2.0, 7.0], 8) == "▁▂▃█"
    assert sparkline([5.0, 5.0, 5.0], 8) == "▁▁▁"
    assert sparkline([0.0] * 50 + [1.0] * 50, 10) == "▁▁▁▁▁█████"
    assert len(sparkline([float(n) for n in range(1000)], 48)) == 48


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.6, "1:00:00"), (7384, "2:03:04")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_remaining_time_is_in_proportion() -> None:
    assert remaining(done=10, left=30, seconds=20.0) == "1:00"
    assert remaining(done=0, left=30, seconds=20.0) == ""


def test_lines_where_there_is_no_terminal() -> None:
    written = io.StringIO()
    with Display("demo", Console(file=written, width=200)) as display:
        display.note("measuring [base]")
        for step in range(1, 26):
            display.status("sample", 3, 64)
            display.step(step, 25, {"reward": step / 10, "accuracy": 0.5})
    lines = written.getvalue().splitlines()
    assert lines[0] == "measuring [base]"
    assert [line.split()[1] for line in lines[1:]] == ["1/25", "10/25", "20/25", "25/25"]
    assert "reward 1.00  accuracy 50%" in lines[2]
    assert "left" in lines[2]
    assert "left" not in lines[-1]


def test_a_drawing_on_a_terminal() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    with Display("demo [x]", console) as display:
        for step in range(1, 5):
            display.step(step, 10, {"reward": float(step), "kl": 0.25})
        display.status("sample", 3, 64)
        with console.capture() as drawn:
            console.print(display._render())
    text = drawn.get()
    for part in ("demo [x]", "4/10", "sample", "3/64", "reward 4.00", "KL 0.2500", "▁▃▆█"):
        assert part in text


def test_a_skipped_update_is_said() -> None:
    written = io.StringIO()
    with Display("demo", Console(file=written, width=200)) as display:
        for step in range(1, 5):
            display.step(step, 9, {"loss": 1.0, "skipped": float(step == 3)})
    assert [line for line in written.getvalue().splitlines() if "skipped" in line] == [
        "step 3: an update was skipped, its loss or gradient not finite; samples: skipped.jsonl"
    ]
