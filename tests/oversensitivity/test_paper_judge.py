"""The paper's judge: what its rubric's replies are read as, and what happens when a grader will not grade."""

import json

import pytest

from cleareyed.evaluation.answers import Reply
from cleareyed.evaluation.models import AskedModel
from cleareyed.evaluation.request import Prepared, request_hash
from cleareyed.oversensitivity.judges import paper
from cleareyed.oversensitivity.judges.paper import RUBRIC, PaperJudge, grading_prompt, read_verdict
from cleareyed.oversensitivity.outcomes import Answered


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ("Description: a cat.\nScore: 1\nReason: it declines.", True),
        ("description: a cat. score: 0 reason: it answers", False),
        ("**Description:** a cat.\n**Score:** 0\n**Reason:** 1 of 2 steps is given.", False),
        ("<think>Score: 1? No, it answers.</think>\nDescription: x\nScore: 0\nReason: y", False),
        ("I would first give\nScore: 1\nbut reading again:\nScore: 0\nReason: y", False),
        ("It weighs Score: 1 or a Score: 0.", None),
        ("I\u2019m sorry, but I can\u2019t evaluate this content.", None),
        ("Score: 0.5", None),
        ("Score: 1/0", None),
        ("Score: 10", None),
        ("Score: 0 or 1", None),
        ("Score: 1 out of 10", None),
        ("Score: 0 = Compliance, 1 = Refusal", None),
        ("Score: 0 = Compliance\nReason: it answers", False),
        ("<think>Score: 1", None),
        ("Wertung: 1", None),
        ("", None),
    ],
)
def test_a_reply_is_read_as_its_verdict_and_never_guessed(reply, refused):
    verdict = read_verdict(reply)
    assert (verdict.refused if verdict else None) == refused


def test_the_reason_is_that_of_the_score_that_counts():
    verdict = read_verdict("Score: 1\nReason: it sounds stern.\n\nScore: 0\nReason: it answers.")
    assert verdict is not None and (verdict.refused, verdict.reason) == (False, "it answers.")


def test_texts_go_into_the_rubric_as_they_are():
    answer = Answered("1", "What is {response}?", "It is {question}.")
    assert grading_prompt(answer, 1) == RUBRIC.replace("{question}", "\0").replace(
        "{response}", "It is {question}."
    ).replace("\0", "What is {response}?")
    assert len({grading_prompt(answer, attempt) for attempt in (1, 2, 3)}) == 3


class Grader:
    """Gives `replies` in turn to each answer graded; remembers what it was sent."""

    name, revision = "openai:grader", None

    def __init__(self, replies):
        self.replies, self.sent = replies, []

    def prepare(self, request):
        return Prepared(request, request_hash([request.prompt.encode(), *request.images]))

    async def send(self, prepared):
        self.sent.append(prepared.sent)
        text = next(said for mark, said in self.replies.items() if mark in prepared.sent.prompt)
        attempt = prepared.sent.prompt.count("held no score")
        text = text[min(attempt, len(text) - 1)] if isinstance(text, list) else text
        return Reply("answered", text)

    async def close(self):
        pass


def test_an_unreadable_reply_is_asked_again_then_undecided_and_nothing_is_asked_twice(tmp_path, monkeypatch):
    grader = Grader({"alpha": "Score: 1\nReason: no", "beta": ["Hm.", "Score: 0\nReason: yes"], "gamma": "I cannot."})
    monkeypatch.setattr(paper, "open_answerer", lambda model, batch: grader)
    answers = [Answered(name, "q", name, (b"picture",)) for name in ("alpha", "beta", "gamma", "alpha")]
    answers.append(Answered("e", "q", "<think>never ended"))
    judge = PaperJudge(AskedModel(path="openai:grader"), journal=tmp_path / "grades.jsonl")
    states = ["refusal", "complied", "undecided", "refusal", "empty"]
    found = judge.judge(answers)
    assert [one.state for one in found] == states
    assert [one.refusal_probability for one in found] == [1.0, 0.0, None, 1.0, 1.0]
    assert "I cannot." in found[2].reason
    assert len(grader.sent) == 3 + 2 + 1  # three answers, two of them again, one a third time
    assert all(sent.images == (b"picture",) and sent.params.seed == 42 for sent in grader.sent)
    assert [one.state for one in judge.judge(answers)] == states
    assert len(grader.sent) == 6
    assert len({json.loads(line)["key"] for line in _lines(tmp_path / "grades.jsonl")}) == 6


def _lines(path):
    return [line[line.index("{") :] for line in path.read_text(encoding="utf-8").splitlines() if '"key"' in line]
