import pytest

from cleareyed.errors import InputError
from cleareyed.tasks.prompts import STYLES, offer, prompt_style, prompt_text

EXPECTED = {
    "base": (
        "A conversation between User and Assistant. The user asks a question about the image, and the Assistant "
        "solves it. The assistant first thinks about the reasoning process in the mind and then provides the user "
        "with the answer.\nUser: How many {cups}? \nAssistant: Let me solve this step by step.\n<think>",
        "<think>",
        False,
    ),
    "no-reasoning": (
        "A conversation between User and Assistant. The user asks a question about the image, and the Assistant "
        "solves it.\nUser: How many {cups}? \nAssistant: ",
        "",
        False,
    ),
    "instruct": (
        "How many {cups}?  Output the thinking process in <think> </think> and final answer (option) in <answer> "
        "</answer> tags.",
        "",
        True,
    ),
    "instruct-eval": (
        "How many {cups}?\nOutput the thinking process in <think> </think> and final answer in <answer> </answer> "
        "tags.",
        "",
        True,
    ),
    "instruct-no-reasoning": ("How many {cups}?", "", True),
    "bare": ("How many {cups}?", "", False),
    "plain": ("Question: How many {cups}?\nAnswer:", "", False),
    "plain-worked": ("Question: How many {cups}?\nWorking:", "", False),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_style_is_exactly_as_published(name: str) -> None:
    style = prompt_style(name)
    assert (prompt_text(style, "How many {cups}?"), style.opens, style.chat) == EXPECTED[name]
    assert prompt_text(style, "q").endswith(style.opens)


def test_styles_are_the_listed_ones() -> None:
    assert set(STYLES) == set(EXPECTED)
    with pytest.raises(InputError, match=r"unknown prompt style `instuct`: did you mean `instruct`\?"):
        prompt_style("instuct")


def test_choices_are_offered_in_the_words_of_sat() -> None:
    assert offer("Where?", ["a", "b", "c"]) == "Where? Choose between the following options: a, b or c"
    assert offer("Where?", ["a", "b"]) == "Where? Choose between the following options: a or b"
