"""The comparison as a table for the console."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cleareyed.report.words import number, percent, title_of


def comparison_table(summary: Mapping[str, Any]) -> Table:
    """One row per label of a summary (other keys are passed over), one column per measure, shares in per cent.

    Fits a terminal of 80 columns with four skills.
    """
    labels = {name: value for name, value in summary.items() if isinstance(value, Mapping) and "accuracy" in value}
    skills = sorted({skill for value in labels.values() for skill in value["by_skill"]})
    table = Table(
        title="Accuracy in % (95 % interval)", title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False
    )
    table.add_column("model", min_width=10)
    table.add_column("overall", justify="right", no_wrap=True)
    for skill in skills:
        table.add_column(Text(skill), justify="right", no_wrap=True)
    for heading in ("any form", "format", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, value in labels.items():
        low, high = value["interval"]
        by_skill = value["by_skill"]
        table.add_row(
            Text(title_of(name)),
            f"{percent(value['accuracy'])} ({100 * low:.0f}-{100 * high:.0f})",
            *(percent(by_skill[skill]["accuracy"]) if skill in by_skill else "" for skill in skills),
            percent(value["accuracy_any_form"]),
            percent(value["format_rate"]),
            number(value["mean_tokens"], 1),
        )
    return table
