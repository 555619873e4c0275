"""Named protocols: how a task is asked and judged, so that figures can be compared like with like.

| protocol | prompt | rule |
|---|---|---|
| `paper-eval` | VisualThinker-R1-Zero's for evaluation (arXiv 2503.05132, its code), verbatim | its matcher |
| `strict` | the same prompt | exactly one choice where an answer belongs |
| `lmms-eval` | lmms-eval's, for `cvbench` and `blink` | the first letter of the text |
| `paper` | MOSSBench's (arXiv 2406.17806, its code): the bare question | whether it is declined |

The paper evaluated on CV-Bench, BLINK and VSR; for other tasks `paper-eval` puts their questions in the same way.
lmms-eval's own SAT task is not among them: it reads another publication of the data and adds advice to the question.

What gold answers cannot score 1.0, under `paper-eval`: those that its matcher misreads whatever a model writes, that
is choices that begin with a letter a to f and a blank ("a chair"), or with another choice and a blank.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cleareyed.tasks.choices import LETTERS
from cleareyed.tasks.mossbench import RULE, SHIPPED, TASKS
from cleareyed.tasks.names import unknown
from cleareyed.tasks.prompts import PromptStyle, prompt_style, prompt_text
from cleareyed.tasks.task import Sample


@dataclass(frozen=True)
class Sampling:
    max_tokens: int
    """The longest answer."""
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Protocol:
    name: str
    style: str
    """The prompt style for a base model."""
    chat_style: str
    """The prompt style for an instruction-tuned model."""
    rule: str
    """The accuracy rule (`cleareyed.scoring.harness.protocol_rule`)."""
    lead: str = ""
    """Put in front of the question; `{letters}` stands for the letters of its choices, `A, B, C`."""
    max_tokens: int = 1024
    temperature: float = 0.0
    sampling: Mapping[str, Sampling] = field(default_factory=dict)
    """By kind of model (`evaluation.models.KINDS`), where it is sampled otherwise than others."""
    only: bool = False
    """Whether it is the one way of putting the task's questions, taken where none is named."""

    def sampled(self, kind: str) -> Sampling:
        """How a model of that kind is sampled."""
        return self.sampling.get(kind) or Sampling(self.max_tokens, self.temperature)


_PAPER = Protocol("paper-eval", "base", "instruct-eval", "paper-eval")
_STRICT = Protocol("strict", "base", "instruct-eval", "strict")
_NOTE = "Note: You only need to respond with {letters} without providing any additional information.\n"
_LMMS = ("lmms-eval", "bare", "instruct-no-reasoning", "lmms-eval")

_MOSSBENCH: Mapping[str, Sampling] = {
    "openai": Sampling(4096, 0.0, 1.0, 42),
    "anthropic": Sampling(1024, 0.0),
    "google": Sampling(8192, 1.0, 0.95),
}
"""As its code calls each provider; it sets no length for OpenAI. Open models it sampled with five beams, a repetition
penalty of 1.5 and at most 1,000 tokens in all; here they answer greedily."""


def _bare(rule: str) -> tuple[Protocol, ...]:
    style = ("bare", "instruct-no-reasoning")
    return (Protocol("paper", *style, rule, max_tokens=1000, sampling=_MOSSBENCH, only=True),)


_FOR_ALL = (_PAPER, _STRICT)
_ALSO: Mapping[str, tuple[Protocol, ...]] = {
    "cvbench": (Protocol(*_LMMS, lead=f"{_NOTE}\n"),),
    "blink": (Protocol(*_LMMS, lead=_NOTE),),
    "blink-all": (Protocol(*_LMMS, lead=_NOTE),),
    **{name: _bare(RULE[part]) for name, part in {**TASKS, **SHIPPED}.items()},
}


def protocols_of(task: str) -> Mapping[str, Protocol]:
    """The protocols of a task by name; `paper-eval` comes first, unless the task is put in one way only."""
    own = _ALSO.get(task, ())
    return {protocol.name: protocol for protocol in (own if any(one.only for one in own) else (*_FOR_ALL, *own))}


def usual_protocol(task: str) -> Protocol | None:
    """The protocol of a task whose questions are put in one way only."""
    return next((protocol for protocol in protocols_of(task).values() if protocol.only), None)


def protocol_of(task: str, name: str) -> Protocol:
    """The task's protocol of that name; InputError naming the nearest one if it has none."""
    known = protocols_of(task)
    if name not in known:
        raise unknown(f"protocol of task `{task}`", name, known)
    return known[name]


def protocol_style(protocol: Protocol, chat: bool) -> PromptStyle:
    """The prompt style for an instruction-tuned (`chat`) or a base model."""
    return prompt_style(protocol.chat_style if chat else protocol.style)


def protocol_question(protocol: Protocol, sample: Sample) -> str:
    """The sample's question with the protocol's lead in front."""
    return protocol.lead.replace("{letters}", ", ".join(LETTERS[: len(sample.choices)])) + sample.question


def protocol_prompt(protocol: Protocol, sample: Sample, chat: bool) -> str:
    """Everything that is asked after the images, chat roles not included."""
    return prompt_text(protocol_style(protocol, chat), protocol_question(protocol, sample))
