import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cleareyed.errors import InputError
from cleareyed.recipe import RewardSpec
from cleareyed.scoring.rewards import RewardFunction, load_rewards, score
from cleareyed.scoring.rules import Verdict, strict
from cleareyed.tasks.task import Sample

SAMPLES = [
    Sample(id="1", question="Where?", answer="left", choices=("left", "right"), skill="S", columns={"hint": "l"}),
    Sample(id="2", question="How many?", answer="3", columns={"other": 5}),
]
TEXTS = ["<think>x</think> <answer>Left</answer>", "<answer>4</answer>"]
IDS = [[5, 6, 7], [8]]


def judged(*functions: RewardFunction) -> Any:
    return score(functions, strict, SAMPLES, ["p", "q"], TEXTS, IDS)


def specs(*names: str) -> list[RewardSpec]:
    return [RewardSpec(function=name) for name in names]


def test_the_built_in_functions() -> None:
    functions = load_rewards(specs("accuracy", "format", "length"), "strict", False, Path())
    scored = judged(*functions)
    assert scored.rewards == [
        {"accuracy": 1.0, "format": 1.0, "length": 0.003},
        {"accuracy": 0.0, "format": 0.0, "length": 0.001},
    ]
    assert scored.totals == [2.003, 0.001]
    assert scored.verdicts == [Verdict(True, "left"), Verdict(False, "4")]


def test_a_recipe_can_weigh_functions_and_name_the_rule() -> None:
    listed = [
        RewardSpec(function="accuracy", weight=2.0, rule="paper-reward"),
        RewardSpec(function="format", weight=-0.5),
    ]
    scored = judged(*load_rewards(listed, "strict", False, Path()))
    assert scored.rewards[0] == {"accuracy": 0.0, "format": 1.0}
    assert scored.totals == [-0.5, 0.0]
    assert scored.verdicts[0].correct


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([], "field `rewards` is empty"),
        (specs("acuracy"), r"unknown reward function `acuracy`: did you mean `accuracy`\?"),
        (specs("accuracy", "accuracy"), "`accuracy` is listed twice"),
        ([RewardSpec(function="accuracy", rule="stritc")], "unknown accuracy rule `stritc`: did you mean `strict`"),
        ([RewardSpec(function="format", rule="strict")], "field `rule` belongs to `accuracy` only"),
        ([RewardSpec(function="format", weight=math.nan)], "field `weight` is nan"),
        (specs("mine.py:f"), "`mine.py:f` is code that would be run; allow that with --allow-code"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(listed: list[RewardSpec], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_rewards(listed, "strict", False, Path())


CODE = """
from dataclasses import dataclass

@dataclass
class Weights:
    each: float = 0.25

def by_column(prompts, completions, hint, other, **columns):
    return [None if h is None else Weights().each for h in hint]

def everything(**columns):
    everything.seen = columns
    return [0] * len(columns["completions"])

async def later(completions, **kwargs):
    return [len(text) for text in completions]

def greedy(completions, completion_ids, **kwargs):
    completion_ids.clear()
    completions.clear()
    return [1, 1]

def narrow(prompts, completions):
    return [1, 1]

def failing(completions, **kwargs):
    return [1 / 0 for _ in completions]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


def own(folder: Path, name: str, weight: float = 1.0) -> RewardFunction:
    return load_rewards([RewardSpec(function=f"mine.py:{name}", weight=weight)], "strict", True, folder)[0]


def test_a_function_from_a_file_gets_columns_and_may_abstain(folder: Path) -> None:
    scored = judged(own(folder, "by_column", weight=2.0))
    assert scored.rewards == [{"by_column": 0.25}, {"by_column": None}]
    assert scored.totals == [0.5, 0.0]


def test_a_function_is_given_all_of_trls_arguments(folder: Path) -> None:
    function = own(folder, "everything")
    judged(function)
    assert function.call.seen == {  # type: ignore[attr-defined]
        "prompts": ["p", "q"],
        "completions": TEXTS,
        "completion_ids": IDS,
        "question": ["Where?", "How many?"],
        "answer": ["left", "3"],
        "choices": [["left", "right"], []],
        "id": ["1", "2"],
        "skill": ["S", ""],
        "hint": ["l", None],
        "other": [None, 5],
    }


def test_an_async_function_is_awaited_and_none_can_spoil_the_next(folder: Path) -> None:
    scored = judged(own(folder, "greedy"), own(folder, "later"))
    assert scored.rewards == [{"greedy": 1.0, "later": len(text)} for text in TEXTS]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], "returned 1 values for 2 completions"),
        (None, "returned NoneType; return a list of numbers"),
        (3.0, "returned float; return a list of numbers"),
        ([1.0, "1"], "returned a str at place 1"),
        ([math.nan, 0], "returned nan at place 0; return finite numbers or None"),
        ([0, -math.inf], "returned -inf at place 1"),
        ([np.ones(2), 0], "value at place 0 is no single number"),
    ],
)
def test_a_result_that_is_no_reward_names_the_function(result: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"reward function `mine`:? ?{re.escape(message)}"):
        judged(RewardFunction("mine", 1.0, lambda **columns: result))


@pytest.mark.parametrize("result", [np.array([1, 0]), (True, False), [np.float32(1), np.int64(0)]])
def test_numbers_of_other_kinds_are_rewards(result: Any) -> None:
    assert judged(RewardFunction("mine", 1.0, lambda **columns: result)).totals == [1.0, 0.0]


def test_a_function_that_fails_is_named_with_its_place(folder: Path) -> None:
    with pytest.raises(InputError, match=r"`failing` raised ZeroDivisionError: .* \(.*mine\.py, line \d+\)"):
        judged(own(folder, "failing"))
    with pytest.raises(InputError, match=r"`narrow` raised TypeError: .*unexpected keyword"):
        judged(own(folder, "narrow"))


def test_a_file_that_does_not_do_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"unknown function in .*mine\.py `latter`: did you mean `later`\?"):
        own(folder, "latter")
    (folder / "mine.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(InputError, match=r"reward file .*mine\.py fails when run: ModuleNotFoundError"):
        own(folder, "later")
    (folder / "mine.py").write_text("def broken(:\n")
    with pytest.raises(InputError, match=r"mine\.py fails when run: SyntaxError"):
        own(folder, "broken")
    (folder / "mine.py").unlink()
    with pytest.raises(InputError, match=r"no file .*mine\.py"):
        own(folder, "later")
