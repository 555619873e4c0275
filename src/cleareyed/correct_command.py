"""`cleareyed judge correct`: the rate that a judge gives, corrected by people's labels of some of the same answers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from rich.table import Table
from rich.text import Text

from cleareyed.console import table_console
from cleareyed.errors import InputError
from cleareyed.evaluation.stats import Interval, wilson
from cleareyed.oversensitivity.correct import prediction_powered, rogan_gladen
from cleareyed.oversensitivity.outcomes import DECLINED, UNREAD, Outcome
from cleareyed.report.words import percent, percent_range, visible


class Label(BaseModel):
    """A row of `judge label`; what else it holds is left alone."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)
    id: str
    state: Outcome


def correct(judged: Path, people: Path) -> None:
    """Print the share declined as judged, and as the people's labels correct it, by two methods.

    Raises:
        InputError: a file that cannot be read, an id that is there twice or not judged, too few labels.
    """
    said, truth = states(judged), states(people)
    if strange := sorted(truth.keys() - said.keys()):
        raise InputError(
            f"{people}: {len(strange)} labelled answers are not in {judged}, {strange[0]} first; "
            "label a sample of the answers that the judge was given"
        )
    read = [name for name, state in said.items() if state not in UNREAD]
    place = {name: number for number, name in enumerate(read)}
    labelled = [name for name, state in truth.items() if state not in UNREAD and name in place]
    flags = [said[name] in DECLINED for name in read]
    labels, places = [truth[name] in DECLINED for name in labelled], [place[name] for name in labelled]
    table = Table(title=Text(visible(f"Declined, of {len(read)} answers in {judged.name}")), title_justify="left")
    for heading in ("how", "rate", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "how" else "right")
    powered = prediction_powered(flags, labels, places)
    _row(table, "as judged", powered.judged, wilson(sum(flags), len(flags)))
    _row(table, f"{len(labels)} labels alone", sum(labels) / len(labels), wilson(sum(labels), len(labels)))
    _row(table, "prediction-powered (PPI++)", powered.rate.value, powered.rate.interval)
    remark = ""
    try:
        found = rogan_gladen(flags, labels, places).rate
        _row(table, "Rogan-Gladen", found.value, found.interval)
    except InputError as error:
        remark = f"Rogan-Gladen: {error}"
    console = table_console()
    console.print(table)
    agree = sum(flags[at] == label for at, label in zip(places, labels, strict=True))
    unread = (len(said) - len(read), len(truth) - len(labelled))
    console.print(Text(f"Judge and people agree on {agree} of {len(labels)} ({percent(agree / len(labels))} %)."))
    console.print(
        Text(f"Left out: {unread[0]} answers without a verdict, {unread[1]} rows of people without a label.")
    )
    console.print(Text("This holds if the labelled answers are a random sample of all."))
    if remark:
        console.print(Text(remark), soft_wrap=True)


def states(path: Path) -> Mapping[str, Outcome]:
    """By id the state in a file that `judge label` wrote: a JSON array, or lines. InputError: it is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = path.suffix.lower() == ".jsonl"
        held = [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
        rows = TypeAdapter(list[Label]).validate_python(held)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a file that `cleareyed judge label` wrote") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: row {where}: {first['msg']}; rows hold id and state, one of {', '.join(get_args(Outcome))}"
        ) from None
    found = {row.id: row.state for row in rows}
    if len(found) < len(rows):
        raise InputError(f"{path}: {len(rows) - len(found)} ids stand there more than once; keep one row of each")
    return found


def _row(table: Table, how: str, rate: float, interval: Interval) -> None:
    table.add_row(how, f"{percent(rate)} %", percent_range(interval.low, interval.high))
