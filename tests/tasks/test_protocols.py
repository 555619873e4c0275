"""Protocols ask and judge as they say, and gold answers score 1.0 under every one that can."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from tasks.public import write_blink, write_cvbench, write_sat, write_vsr

from cleareyed.errors import InputError
from cleareyed.recipe import TaskSpec
from cleareyed.scoring.harness import lmms_eval, protocol_rule
from cleareyed.scoring.rules import Verdict
from cleareyed.tasks.blink import SUBTASKS
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.protocols import Protocol, protocol_of, protocol_prompt, protocol_style, protocols_of
from cleareyed.tasks.task import Sample

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not beside the repository")

CUPS = Sample(
    id="1",
    question="How many cups? Select from the following choices.\n(A) 2\n(B) 0\n(C) 1",
    answer="0",
    choices=("2", "0", "1"),
)


def test_the_papers_prompts_are_verbatim() -> None:
    asked = {chat: protocol_prompt(protocol_of("cvbench", "paper-eval"), CUPS, chat) for chat in (False, True)}
    assert asked[False] == (
        "A conversation between User and Assistant. The user asks a question about the image, and the Assistant "
        "solves it. The assistant first thinks about the reasoning process in the mind and then provides the user "
        f"with the answer.\nUser: {CUPS.question} \nAssistant: Let me solve this step by step.\n<think>"
    )
    assert asked[True] == (
        f"{CUPS.question}\n"
        "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    )
    strict = protocol_of("cvbench", "strict")
    assert [protocol_prompt(strict, CUPS, chat) for chat in (False, True)] == [asked[False], asked[True]]


def test_lmms_eval_puts_its_note_in_front() -> None:
    note = "Note: You only need to respond with A, B, C without providing any additional information.\n"
    for chat in (False, True):
        assert protocol_prompt(protocol_of("cvbench", "lmms-eval"), CUPS, chat) == f"{note}\n{CUPS.question}"
        assert protocol_prompt(protocol_of("blink", "lmms-eval"), CUPS, chat) == f"{note}{CUPS.question}"
    assert protocol_style(protocol_of("blink", "lmms-eval"), chat=True).chat


def test_each_task_has_the_protocols_it_should() -> None:
    assert list(protocols_of("cvbench")) == list(protocols_of("blink-all")) == ["paper-eval", "strict", "lmms-eval"]
    assert list(protocols_of("sat")) == list(protocols_of("scenes-bench")) == ["paper-eval", "strict"]
    assert all((p.max_tokens, p.temperature) == (1024, 0.0) for p in protocols_of("cvbench").values())
    with pytest.raises(InputError, match=r"unknown protocol of task `sat` `lmms-eval`.*known: paper-eval, strict"):
        protocol_of("sat", "lmms-eval")
    with pytest.raises(InputError, match="unknown accuracy rule `lmms`: did you mean `lmms-eval`"):
        protocol_rule("lmms")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("B", "0"),
        ("(B)", "0"),
        (" ( b) zero", "0"),
        ("\nB. 0", "0"),
        ("Because of this, (A)", "0"),
        ("The answer is (B)", "T"),
        ("A cup is missing, so (B)", "2"),
        ("0", None),
        ("[B]", None),
        ("<answer>B</answer>", None),
        ("", None),
        ("ß", None),
    ],
)
def test_lmms_eval_reads_the_first_letter_of_the_text_whatever_it_begins(text: str, said: str | None) -> None:
    assert lmms_eval(text, CUPS) == Verdict(said == "0", said)


def answers(protocol: Protocol, sample: Sample, choice: str) -> Iterable[str]:
    """What a model that means `choice` may write under that protocol, with what the prompt opened."""
    if protocol.rule == "lmms-eval":
        letter = "ABCDEF"[sample.choices.index(choice)]
        return (letter, f"({letter})", f"{letter}.", f"({letter}) {choice}")
    return (f"{protocol_style(protocol, chat=False).opens} so</think> <answer>{choice}</answer>",)


def check(name: str, samples: Iterable[Sample]) -> None:
    """The gold answer is right and every other choice wrong; equal items are judged once."""
    kinds = {(sample.answer, sample.choices): sample for sample in samples}
    assert kinds
    for protocol in protocols_of(name).values():
        rule = protocol_rule(protocol.rule)
        for sample in kinds.values():
            for choice in sample.choices:
                for text in answers(protocol, sample, choice):
                    assert rule(text, sample).correct == (choice == sample.answer), (protocol.name, text, sample)


def test_gold_scores_one_under_every_protocol_on_generated_items(tmp_path: Path) -> None:
    write_cvbench(tmp_path / "cvbench")
    write_sat(tmp_path / "sat", "val")
    write_blink(tmp_path / "blink", SUBTASKS)
    write_vsr(tmp_path / "vsr")
    for name, split in (("cvbench", None), ("sat", "val"), ("blink-all", None), ("vsr", None)):
        check(name, load_task(TaskSpec(name=name, split=split), tmp_path).samples)
    check("scenes-bench", load_task(TaskSpec(name="scenes-bench", limit=40), None).samples)


@needs_data
def test_gold_scores_one_under_every_protocol_on_every_public_item() -> None:
    check("blink", load_task(TaskSpec(name="blink"), DATA).samples)
    check("nlvr", load_task(TaskSpec(name="nlvr", split="dev"), DATA).samples)


def test_what_the_papers_matcher_misreads_cannot_score_there() -> None:
    """The exception that `protocols.py` names; `strict` has no such exception."""
    chair = Sample(id="1", question="Which?", answer="a chair", choices=("the box", "a chair"))
    text = "<think>so</think> <answer>a chair</answer>"
    assert not protocol_rule("paper-eval")(text, chair).correct
    assert protocol_rule("strict")(text, chair).correct
