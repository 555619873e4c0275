"""Models in order, from the folders of runs."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Result

from cleareyed.evaluation.ranks import rank
from cleareyed.records.parts import write_answers
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder

Command = Callable[..., Result]
ITEMS = 120
SHARES = {"best": 0.9, "second": 0.86, "last": 0.2}
ROW = AnswerRow(
    task="t",
    step=0,
    label="m",
    sample_id="",
    skill="",
    group="",
    question="?",
    answer="a",
    completion="a",
    tokens=1,
    finish="stop",
    extracted={"strict": "a"},
    correct={"strict": True},
    well_formed=True,
)


@pytest.fixture
def answers(tmp_path: Path) -> dict[str, list[AnswerRow]]:
    """Three runs of one task; the last lacks one answer, and the best failed on another."""
    found = {}
    for seed, (name, share) in enumerate(SHARES.items()):
        draw = random.Random(seed)
        rows = [
            replace(ROW, sample_id=f"s{at}", group=f"g{at // 2}", correct={"strict": draw.random() < share})
            for at in range(ITEMS)
        ]
        found[name] = rows
    found["last"] = found["last"][1:]
    found["best"][5] = replace(found["best"][5], state="failed", correct={"strict": False})
    for name, rows in found.items():
        run = RunFolder(tmp_path / name)
        run.path.mkdir()
        run.recipe.write_text("method: eval\n")
        write_answers(run, random.Random(9).sample(rows, len(rows)))
    return found


def test_models_are_ranked_on_what_all_answered(
    command: Command, answers: dict[str, list[AnswerRow]], tmp_path: Path
) -> None:
    said = command("rank", "last", "best", "second", "--json", "ranks.json")
    assert said.exit_code == 0, said.output
    held = json.loads((tmp_path / "ranks.json").read_text())
    shared = [f"s{at}" for at in range(ITEMS) if at not in (0, 5)]
    tables = {name: {row.sample_id: row.correct["strict"] for row in rows} for name, rows in answers.items()}
    groups = [f"g{int(name[1:]) // 2}" for name in shared]
    expected = rank({name: [table[one] for one in shared] for name, table in tables.items()}, groups)
    assert held["n"] == len(shared) and [one["name"] for one in held["ranked"]] == [one.name for one in expected]
    for one, other in zip(held["ranked"], expected, strict=True):
        assert (one["accuracy"], one["best_rank"], one["worst_rank"]) == (
            other.accuracy,
            other.best_rank,
            other.worst_rank,
        )
        assert tuple(one["letters"]) == other.letters and one["interval"]["low"] < one["accuracy"]
    assert "1 to 2" in said.stdout and "Left out: 2 items" in said.stdout


def test_what_cannot_be_ranked_is_said(command: Command, answers: dict[str, list[AnswerRow]], tmp_path: Path) -> None:
    assert "1 answerers of t; name runs with 2" in command("rank", "best").stderr
    assert "shared are: t" in command("rank", "best", "last", "--task", "u").stderr
    write_answers(RunFolder(tmp_path / "best"), [replace(ROW, task="u", sample_id="x")])
    write_answers(RunFolder(tmp_path / "last"), [replace(ROW, task="u", sample_id="y")])
    assert "choose one with --task" in command("rank", "best", "last").stderr
    assert "no question has an answer from everyone" in command("rank", "best", "last", "--task", "u").stderr
    result = command("rank", "best", "last", "--task", "t", "--rule", "lax")
    assert result.exit_code == 2 and "not judged under rule 'lax'" in result.stderr
