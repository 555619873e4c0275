"""The rows of a run: one for every rollout and one for every evaluated answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RolloutRow:
    """One sampled completion of a training step."""

    step: int
    sample_id: str
    group: int
    """Index of the prompt within the step; rows with the same step and group share a prompt."""
    index: int
    """Index of the completion within its group."""
    question: str
    answer: str
    completion: str
    tokens: int
    finish: str
    rewards: dict[str, float | None]
    """By reward function, unweighted; None where the function does not apply."""
    reward: float
    """The weighted sum."""
    advantage: float
    extracted: str | None
    """The answer that the accuracy rule read, None if it found none."""
    correct: bool


@dataclass(frozen=True, kw_only=True)
class AnswerMark:
    """One evaluated answer without its texts: what figures are made of."""

    task: str
    step: int
    """The training step of the weights that answered; 0 for the start."""
    label: str
    """Which model and prompt this is, e.g. `base`, `grpo`, `base/no-reasoning`."""
    sample_id: str
    skill: str
    group: str
    answer: str
    """The gold answer."""
    tokens: int | None
    """Of the completion; None where the provider does not say."""
    finish: str
    """`stop`, `length`, or the provider's own word."""
    correct: dict[str, bool]
    """By accuracy rule."""
    well_formed: bool
    """Whether the format rule holds."""
    state: str = "answered"
    """What came back (`evaluation.answers.State`); records from before there were states hold answers only."""


@dataclass(frozen=True, kw_only=True)
class AnswerRow(AnswerMark):
    """One evaluated answer."""

    question: str
    completion: str
    """With whatever the prompt opened (such as `<think>`) put back in front."""
    extracted: dict[str, str | None]
    """By accuracy rule: the answer read."""
    prompt_hash: str = ""
    """Of the prompt as sent, chat or not and system message included; "" if not recorded."""
    images_hash: str = ""
    """Of the pictures as they were before sending, with what was done to them; "" if not recorded."""
