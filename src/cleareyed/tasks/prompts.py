"""The ways of putting a question to a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cleareyed.tasks.names import unknown


@dataclass(frozen=True)
class PromptStyle:
    """A template around a question. Images always come first and are no part of the template."""

    name: str
    template: str
    """Holds `{question}` once."""
    opens: str = ""
    """The text at the prompt's end that belongs to the answer; put back before a completion is judged."""
    chat: bool = False
    """Wrap the text in the model's chat roles."""


_CONVERSATION = (
    "A conversation between User and Assistant. The user asks a question about the image, and the Assistant solves it."
)
_THINKS = (
    " The assistant first thinks about the reasoning process in the mind and then provides the user with the answer."
)
_TAGS = "Output the thinking process in <think> </think> and final answer"

STYLES: Mapping[str, PromptStyle] = {
    style.name: style
    for style in (
        PromptStyle(
            "base",
            f"{_CONVERSATION}{_THINKS}\nUser: {{question}} \nAssistant: Let me solve this step by step.\n<think>",
            opens="<think>",
        ),
        PromptStyle("no-reasoning", f"{_CONVERSATION}\nUser: {{question}} \nAssistant: "),
        PromptStyle("instruct", f"{{question}}  {_TAGS} (option) in <answer> </answer> tags.", chat=True),
        PromptStyle("instruct-eval", f"{{question}}\n{_TAGS} in <answer> </answer> tags.", chat=True),
        PromptStyle("instruct-no-reasoning", "{question}", chat=True),
        PromptStyle("bare", "{question}"),
        PromptStyle("plain", "Question: {question}\nAnswer:"),
        PromptStyle("plain-worked", "Question: {question}\nWorking:"),
    )
}
"""By name. `base`, `no-reasoning`, `instruct` (as trained) and `instruct-eval` (as evaluated on CV-Bench) are
VisualThinker-R1-Zero's (arXiv 2503.05132 and its repository); its `instruct-no-reasoning` is the bare question, which
`bare` asks without chat roles.
`plain` and `plain-worked` are the question forms of our own pretraining corpus."""

OFFER = "Choose between the following options: "


def prompt_style(name: str) -> PromptStyle:
    """The style of that name; InputError naming the nearest known one if there is none."""
    if name not in STYLES:
        raise unknown("prompt style", name, STYLES)
    return STYLES[name]


def prompt_text(style: PromptStyle, question: str) -> str:
    """Everything after the images, `opens` included, chat roles not included."""
    return style.template.replace("{question}", question)


def offer(question: str, choices: Sequence[str]) -> str:
    """The question with its choices in the words of SAT: `... Choose between the following options: a, b or c`."""
    *others, last = choices
    listed = f"{', '.join(others)} or {last}" if others else last
    return f"{question} {OFFER}{listed}"


def offered(question: str, answer: str) -> tuple[str, ...]:
    """The choices that a question offers in the words of `offer`; empty if it offers none, or not `answer`.

    For records that do not tell them. A choice that holds ", " or " or " cannot be told apart.
    """
    _, found, listed = question.rpartition(OFFER)
    if not found:
        return ()
    *others, last = listed.strip().split(", ")
    choices = (*others, *last.split(" or "))
    return choices if answer in choices and len(choices) == len(set(choices)) else ()
