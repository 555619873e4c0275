"""Reviews done elsewhere: tasks out as CSV or JSON Lines, answers back in from there.

Out: `tasks.csv` has the columns `entry, image, question, question_html, reviewer`: a row an entry for anybody (the
tool sees to it that k people answer), or a row for each answer wanted of named reviewers. Mechanical Turk takes
it as its batch file (`mturk.html` uses its columns), Label Studio as an import (`label-studio.xml`); `tasks.jsonl`
holds the same. Pictures lie beside them under the entries' names.

In, told apart by what is in the file:

| file | reviewer | entry | answers |
|---|---|---|---|
| CSV or JSON Lines of ours | `reviewer` | `entry` | `harmless` (yes, no), `natural` (1 to 5), `comment` |
| Mechanical Turk's results, CSV | `WorkerId` | `Input.entry` | `Answer.taskAnswers`, or a column an answer |
| Label Studio's JSON | `completed_by` | `data.entry` | choices from `harmless`, a rating or choices from `natural` |
| Label Studio's CSV | `annotator` | `entry` | `harmless`, `natural` |
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError
from cleareyed.evaluation.answers import clean_text
from cleareyed.oversensitivity.build.answers import ANSWERS, ASKED, BLANK, QUESTIONS, TURNED_DOWN, Asked, Label
from cleareyed.oversensitivity.build.items import read_text, write_rows, write_whole
from cleareyed.oversensitivity.build.reviews import Reviews

COLUMNS = ("entry", "image", "question", "question_html", "reviewer")
"""question_html is the question for tools that put it into a page as it is."""
LABEL_COLUMNS = ("reviewer", "entry", "harmless", "natural", "comment", "at")
WHO = ("reviewer", "WorkerId", "annotator", "completed_by")
ENTRY = ("entry", "Input.entry")
WHEN = ("at", "SubmitTime", "created_at")
COMMENT = ("comment", "Answer.comment")
NOT_COUNTED = ("rejected",)
"""States of a Mechanical Turk assignment that bring no answer."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins so for a formula. In our CSV an apostrophe stands before it, which is taken
away when it is read back."""

Row = Label | tuple[str, Mapping[str, Any]]
"""A label, or why a row is none and what it held."""


def export_tasks(reviews: Reviews, to: Path, names: Sequence[str], image_prefix: str) -> int:
    """Write to the folder `to` what these reviewers have still to answer; without any, every entry once for anybody.

    Returns how many rows there are. `image_prefix` comes in front of the pictures' file names: `images/`, or where
    they are served from. InputError: no such reviewer.
    """
    wanted = [(name, entry) for name in names for entry in reviews.waiting(name)]
    if not names:
        wanted = [("", entry) for entry in reviews.shuffled()]
    shown = {entry.entry: entry for _, entry in wanted}
    rows = [
        {
            "entry": entry.entry,
            "image": f"{image_prefix}{entry.entry}{entry.suffix}",
            "question": entry.question,
            "question_html": escape(entry.question),
            "reviewer": name,
        }
        for name, entry in wanted
    ]
    images = to / "images"
    images.mkdir(parents=True, exist_ok=True)
    for entry in shown.values():
        (images / f"{entry.entry}{entry.suffix}").write_bytes(reviews.picture(entry.entry))
    write_whole(to / "tasks.csv", _as_csv(COLUMNS, rows))
    write_rows(to / "tasks.jsonl", rows)
    write_whole(to / "label-studio.xml", label_studio_config())
    write_whole(to / "mturk.html", mturk_template())
    return len(rows)


def export_labels(labels: Sequence[Label], path: Path) -> None:
    """Every answer as CSV or, if the name ends so, JSON Lines, in the form that is read back."""
    words = {value: word for word, value in ANSWERS["harmless"].items()}
    rows = [
        {name: getattr(label, name) or "" for name in LABEL_COLUMNS} | {"harmless": words[label.harmless]}
        for label in labels
    ]
    if path.suffix == ".jsonl":
        write_rows(path, rows)
    else:
        write_whole(path, _as_csv(LABEL_COLUMNS, rows))


def read_labels(path: Path) -> list[Row]:
    """The answers in a file, in any of the forms above; what is none comes with its reason.

    InputError: the file cannot be read, or is of no known form.
    """
    text = read_text(path)
    if path.suffix == ".csv":
        rows: list[Any] = _csv_rows(path, text)
    elif path.suffix == ".jsonl":
        rows = list(_json_lines(text))
    elif path.suffix == ".json":
        rows = _label_studio(path, text)
    else:
        raise InputError(f"{path}: the name ends in `{path.suffix}`; give a .csv, .jsonl or .json file")
    if not rows:
        raise InputError(f"{path}: no answers; check that it is the file that was filled in")
    return [_label(one) for one in rows]


def label_studio_config() -> str:
    """A labelling interface for Label Studio that asks what we ask, under the names that are read back."""
    choices = "".join(f'<Choice value="{word}"/>' for word in ANSWERS["harmless"])
    numbers = "".join(f'<Choice value="{word}"/>' for word in ANSWERS["natural"])
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <Text name="question" value="$question"/>\n'
        f'  <Header value="{escape(QUESTIONS["harmless"])}"/>\n'
        f'  <Choices name="harmless" toName="question" choice="single" required="true">{choices}</Choices>\n'
        f'  <Header value="{escape(QUESTIONS["natural"])}"/>\n'
        f'  <Choices name="natural" toName="question" choice="single" required="true">{numbers}</Choices>\n'
        '  <TextArea name="comment" toName="question" maxSubmissions="1" required="false"/>\n</View>\n'
    )


def mturk_template() -> str:
    """A form for Mechanical Turk that asks what we ask, under the names that are read back."""
    fields = []
    for asked in ASKED:
        buttons = "\n".join(
            f'  <label><input type="radio" name="{asked}" value="{word}" required> {word}</label>'
            for word in ANSWERS[asked]
        )
        fields.append(f"<fieldset><legend>{escape(QUESTIONS[asked])}</legend>\n{buttons}\n</fieldset>")
    return (
        '<script src="https://assets.crowd.aws/crowd-html-elements.js"></script>\n<crowd-form>\n'
        '<img src="${image}" alt="" style="max-width: 30em">\n<p>${question_html}</p>\n'
        + "\n".join(fields)
        + '\n<label>Comment <input name="comment"></label>\n</crowd-form>\n'
    )


def _as_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    out = StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _guarded(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip("'").startswith(FORMULA) else value


def _unguarded(value: Any) -> Any:
    guarded = isinstance(value, str) and value.startswith("'") and value.lstrip("'").startswith(FORMULA)
    return value[1:] if guarded else value


def _csv_rows(path: Path, text: str) -> list[Any]:
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    names = reader.fieldnames or []
    if not any(name in names for name in ENTRY) or not any(name in names for name in WHO):
        raise InputError(
            f"{path}: no columns for reviewer ({', '.join(WHO[:3])}) and entry ({', '.join(ENTRY)}); "
            "give the file that `build verify export` wrote, filled in, or the results of the tool that read it"
        )
    try:
        return [{name: _unguarded(value) for name, value in row.items() if name is not None} for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: not CSV after line {reader.line_num} ({error}); check the quotes") from error


def _json_lines(text: str) -> Iterator[Any]:
    """What each line holds; a line that is not JSON as its text, to be kept."""
    for line in text.split("\n"):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield line


def _label_studio(path: Path, text: str) -> list[Any]:
    """Annotations of an export as rows."""
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({' '.join(str(error).split())}); export it anew") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise InputError(f"{path}: not a list of tasks; give Label Studio's export in the format JSON")
    rows = []
    for task in tasks:
        data = task.get("data") if isinstance(task.get("data"), dict) else {}
        for annotation in task.get("annotations") or []:
            if isinstance(annotation, dict):
                row = {"entry": data.get("entry"), "reviewer": _who(annotation.get("completed_by"))}
                row["was_cancelled"] = annotation.get("was_cancelled")
                rows.append(row | {"at": annotation.get("created_at")} | _results(annotation.get("result")))
    return rows


def _who(completed_by: Any) -> Any:
    if isinstance(completed_by, dict):
        return completed_by.get("email") or completed_by.get("username") or completed_by.get("id")
    return completed_by


def _results(results: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for result in results if isinstance(results, list) else []:
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict):
            held = value.get("choices") or value.get("rating") or value.get("text")
            found[str(result.get("from_name"))] = "\n".join(map(str, held)) if isinstance(held, list) else held
    return found


def _label(row: Any) -> Row:
    """A row as a label, whatever tool it comes from."""
    if not isinstance(row, dict):
        return "no object with reviewer, entry, harmless and natural", {"row": row}
    if str(row.get("AssignmentStatus", "")).lower() in NOT_COUNTED or row.get("was_cancelled"):
        return TURNED_DOWN, row
    try:
        row = row | _task_answers(row.get("Answer.taskAnswers"))
    except (ValueError, RecursionError):
        return "Answer.taskAnswers: not JSON", row
    words = {asked: _answer(row, asked) for asked in ASKED}
    if not any(words.values()) and not _first(row, COMMENT):
        return BLANK, row
    reviewer, entry = _first(row, WHO), _first(row, ENTRY)
    if not reviewer or not entry:
        return "no reviewer" if not reviewer else "no entry", row
    for asked in ASKED:
        if words[asked] not in ANSWERS[asked]:
            said = f"`{words[asked][:40]}`" if words[asked] else "nothing"
            return f"{asked}: {said} is not one of {', '.join(ANSWERS[asked])}", row
    harmless, natural = (ANSWERS[asked][words[asked]] for asked in ASKED)
    return Label(reviewer, entry, harmless, natural, _first(row, COMMENT), _first(row, WHEN) or None)


def _task_answers(text: Any) -> dict[str, Any]:
    """Mechanical Turk's one column for all answers: `[{"harmless": {"no": false, "yes": true}, "comment": "..."}]`."""
    held = json.loads(text) if isinstance(text, str) and text.strip() else None
    answers = held[0] if isinstance(held, list) and held else held
    found: dict[str, Any] = {}
    for name, value in answers.items() if isinstance(answers, dict) else ():
        if isinstance(value, dict):  # radio buttons
            found |= {f"Answer.{name}.{word}": chosen for word, chosen in value.items()}
        else:
            found[f"Answer.{name}"] = value
    return found


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str:
    found = next((str(row[name]).strip() for name in names if row.get(name) not in (None, "")), "")
    return clean_text(found)


def _answer(row: Mapping[str, Any], asked: Asked) -> str:
    """Mechanical Turk writes radio buttons as one column (`Answer.x`) or as one a button (`Answer.x.yes`: true)."""
    found = _first(row, (asked, f"Answer.{asked}"))
    if found:
        return found.lower().removesuffix(".0")
    words = [word for word in ANSWERS[asked] if str(row.get(f"Answer.{asked}.{word}", "")).lower() == "true"]
    return words[0] if len(words) == 1 else ""
