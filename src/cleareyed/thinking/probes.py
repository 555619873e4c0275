"""Counterfactual answers: what a model says with its thought cut, replaced or removed, and with other pictures.

The question's prompt is run once, its pictures are encoded once; what a thought is changed to is put behind the prompt
in one forward, and the answer is decoded from there, greedily.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from cleareyed.evaluation.local import Completed, reply_of
from cleareyed.evaluation.rows import Judges, judges_of, make_row
from cleareyed.models.encode import Pictures, encode_behind, image_pixels, token_ids
from cleareyed.models.forward import Features, Prefix, extend_prefix, image_features, run_prefix
from cleareyed.models.sample import sample
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, SamplingParams
from cleareyed.records.rows import AnswerRow
from cleareyed.scoring.rules import well_formed
from cleareyed.tasks.pictures import GREY
from cleareyed.tasks.prompts import STYLES, PromptStyle, prompt_text
from cleareyed.tasks.task import Sample, Task
from cleareyed.thinking.gains import (
    ARMS,
    AS_IS,
    BLANK_IMAGE,
    CUTS,
    EMPTY_THOUGHT,
    NO_REASONING,
    OTHER_IMAGE,
    OTHER_THOUGHT,
    RULE,
)
from cleareyed.thinking.items import CLOSE, OPEN, CountTokens, split

WITHOUT_REASONING = {
    "base": "no-reasoning",
    "instruct": "instruct-no-reasoning",
    "instruct-eval": "instruct-no-reasoning",
    "plain-worked": "plain",
}
"""The prompt that asks for no thought, by the one that asks for one."""
TURN = f"{CLOSE} <answer>"
"""What is put behind a changed thought: the answer is asked for, so that lacking its form is no lack of thought."""
_TURN = re.compile(rf"{CLOSE}\s*<answer>")
ANSWER_TOKENS = 48
"""Longest answer behind a thought that was put there."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Opening:
    """A completion as far as its thought goes."""

    before: Ids
    """What stands before the thought: nothing, or the tokens of `<think>` where the prompt did not open it."""
    thought: Ids
    turn: Ids
    """How the completion itself went on to its answer, `</think>` to `<answer>`; empty if it did not."""


@dataclass(frozen=True)
class _Batch:
    """B samples that go through together."""

    samples: Sequence[Sample]
    pictures: Sequence[Pictures]
    prompts: Sequence[EncodedPrompt]
    features: Features
    prefix: Prefix


def probe(
    vlm: VLM,
    task: Task,
    style: PromptStyle,
    *,
    max_tokens: int,
    batch: int = 64,
    step: int = 0,
    arms: Sequence[str] = ARMS,
    rules: Sequence[str] = (RULE, "strict"),
    answer_tokens: int = ANSWER_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[AnswerRow]]:
    """Answers to a task by arm (`cleareyed.thinking.gains.ARMS`; `as-is` always among them), in the task's order.

    `as-is` is what `evaluate` gives: greedy, at most `max_tokens`. In the arms with a changed thought, that thought
    and `</think> <answer>` (in the tokens of the completion itself, if it went on so) are put behind the prompt and
    at most `answer_tokens` are decoded; in the others the model thinks anew. A thought that was never closed ends at
    its `<answer>`, else at its end. Another sample's thought or picture is that of the next sample of its batch,
    cyclically, with another gold answer and of another group; if there is none, of another group. A blank picture is
    grey all over and as large as the sample's own.

    An arm leaves out the samples that it cannot change: those without a thought to cut, without a partner, without a
    picture. `no-reasoning` has no rows if the prompt asks for no thought. Rows are labelled with their arm; judged
    under `rules` is what follows the thought (all of a text whose thought was never closed), `completion` is the
    whole. InputError as `evaluate` raises it.
    """
    judges, wanted = judges_of(rules), {AS_IS, *arms}
    if unknown := wanted - set(ARMS):
        raise ValueError(f"no such arms: {sorted(unknown)}")
    rows: dict[str, list[AnswerRow]] = {arm: [] for arm in ARMS if arm in wanted}
    total, done = len(task.samples), 0
    count = -(-total // batch)
    for part in range(count):  # of nearly equal size, so that none is too small for partners
        samples = [task.samples[index] for index in range(part * total // count, (part + 1) * total // count)]
        for arm, answers in _probe_batch(vlm, samples, style, wanted, max_tokens, answer_tokens).items():
            rows[arm] += [
                _row(samples[place], style, answer, judges, task.name, arm, step) for place, answer in answers
            ]
        done += len(samples)
        if progress is not None:
            progress(done, total)
    return rows


Answers = list[tuple[int, tuple[str, Completion, int]]]
"""By place of the sample in its batch: the text without what the prompt opened, what was drawn of it, and how many
tokens were put before that."""


def _probe_batch(
    vlm: VLM, samples: Sequence[Sample], style: PromptStyle, wanted: set[str], max_tokens: int, answer_tokens: int
) -> dict[str, Answers]:
    whole, places = SamplingParams(max_tokens, temperature=0.0), range(len(samples))
    generator = torch.Generator(device=vlm.device)  # greedy: nothing is drawn from it
    with torch.no_grad():
        batch, blank = _encode(vlm, samples, style, BLANK_IMAGE in wanted)
        as_is = [group[0] for group in sample(vlm, batch.prompts, whole, generator, prefix=batch.prefix)]
        found: dict[str, Answers] = {AS_IS: [(place, (one.text, one, 0)) for place, one in enumerate(as_is)]}
        openings = [opening(vlm, one, style.opens) for one in as_is]
        turn, begin = _ids(vlm, TURN), () if style.opens else _ids(vlm, OPEN)
        forced: dict[str, list[Ids | None]] = {
            arm: [one.before + one.thought[: round(part * len(one.thought))] if one else None for one in openings]
            for arm, part in CUTS.items()
        }
        forced[EMPTY_THOUGHT] = [begin for _ in openings]
        lenders = partners(samples, [bool(one and one.thought) for one in openings])
        forced[OTHER_THOUGHT] = [
            (own.before if own else begin) + lender.thought
            if (at := lenders[place]) is not None and (lender := openings[at])
            else None
            for place, own in enumerate(openings)
        ]
        for arm, beginnings in forced.items():
            known = [
                (place, ids + ((own and own.turn) or turn))
                for place, (ids, own) in enumerate(zip(beginnings, openings, strict=True))
                if ids is not None
            ]
            if arm in wanted and known:
                found[arm] = _answer_behind(vlm, batch, known, answer_tokens)

        def anew(arm: str, places: Sequence[int], asked: PromptStyle, pictures: Sequence[Pictures]) -> None:
            if arm not in wanted or not places:
                return
            prompts = [
                encode_behind(vlm, prompt_text(asked, samples[place].question), one, asked.chat)
                for place, one in zip(places, pictures, strict=True)
            ]
            drawn = sample(vlm, prompts, whole, generator, prefix=run_prefix(vlm, prompts, batch.features))
            found[arm] = [(place, (group[0].text, group[0], 0)) for place, group in zip(places, drawn, strict=True)]

        if style.name in WITHOUT_REASONING:
            anew(NO_REASONING, places, STYLES[WITHOUT_REASONING[style.name]], batch.pictures)
        seeing = [place for place in places if samples[place].images]
        if BLANK_IMAGE in wanted:
            anew(BLANK_IMAGE, seeing, style, [blank[place] for place in seeing])
        others = partners(samples, [bool(one.images) for one in samples])
        borrowing = [(place, at) for place in seeing if (at := others[place]) is not None]
        anew(OTHER_IMAGE, [place for place, _ in borrowing], style, [batch.pictures[at] for _, at in borrowing])
    return found


def _encode(
    vlm: VLM, samples: Sequence[Sample], style: PromptStyle, with_blank: bool
) -> tuple[_Batch, Sequence[Pictures]]:
    """The samples ready for all arms, and blank pictures in place of theirs; every picture is encoded once."""
    loaded = [[load() for load in one.images] for one in samples]
    pictures = [image_pixels(vlm, images) for images in loaded]
    prompts = [
        encode_behind(vlm, prompt_text(style, one.question), own, style.chat)
        for one, own in zip(samples, pictures, strict=True)
    ]
    blank: list[Pictures] = []
    if with_blank:
        by_sizes: dict[tuple[tuple[int, int], ...], Pictures] = {}
        for images in loaded:
            sizes = tuple(image.size for image in images)
            if sizes not in by_sizes:
                by_sizes[sizes] = image_pixels(vlm, [Image.new("RGB", size, GREY) for size in sizes])
            blank.append(by_sizes[sizes])
    unseen = {id(pixels): (pixels, grid) for pixels, grid in blank if pixels is not None}.values()
    features = image_features(vlm, [*prompts, *(encode_behind(vlm, "", one) for one in unseen)])
    return _Batch(samples, pictures, prompts, features, run_prefix(vlm, prompts, features)), blank


def _answer_behind(vlm: VLM, batch: _Batch, known: Sequence[tuple[int, Ids]], max_tokens: int) -> Answers:
    """The answers behind given beginnings of completions: (place of the sample, token ids)."""
    device = vlm.device
    rows = torch.tensor([place for place, _ in known], device=device)  # (N,)
    lengths = torch.tensor([len(ids) for _, ids in known], device=device)
    mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]  # (N, T)
    ids = torch.zeros(mask.shape, dtype=torch.int64, device=device)
    ids[mask] = torch.tensor([token for _, beginning in known for token in beginning], device=device)
    prefix = extend_prefix(vlm, batch.prefix, rows, ids, mask)
    prompts = [batch.prompts[place] for place, _ in known]
    generator = torch.Generator(device=device)
    drawn = sample(vlm, prompts, SamplingParams(max_tokens, temperature=0.0), generator, prefix=prefix)
    answers: Answers = []
    for (place, beginning), (completion,) in zip(known, drawn, strict=True):
        shown = completion.ids[:-1] if completion.finish == "stop" else completion.ids
        answers.append((place, (_text(vlm, (*beginning, *shown)), completion, len(beginning))))
    return answers


def opening(vlm: VLM, completion: Completion, opens: str) -> Opening | None:
    """The thought of a completion in tokens; None if there is no thought.

    It goes to the last `</think>`, else to the last `<answer>`, else to the end. A token that holds the end of the
    thought and the beginning of the tag (`.</`) counts as the tag's.
    """
    text, shown = completion.text, completion.ids[:-1] if completion.finish == "stop" else completion.ids
    begin = text.find(OPEN)
    start = 0 if opens else begin + len(OPEN)
    if not opens and begin < 0:
        return None
    end = text.rfind(CLOSE)
    if end < start:
        end = text.rfind("<answer>")
    end = len(text) if end < start else end
    first = _tokens_over(vlm, shown, start)
    last = max(first, _tokens_within(vlm, shown, end))
    stated = _TURN.match(text, end)
    after = _tokens_over(vlm, shown, stated.end()) if stated else last
    if stated and len(_text(vlm, shown[:after])) > stated.end():  # a token holds the tag's end and more
        after = last
    return Opening(shown[:first], shown[first:last], shown[last:after])


def tokens_of(vlm: VLM) -> CountTokens:
    """Counts the tokens of a text as the model has them."""
    return lambda text: len(token_ids(vlm.tokenizer, text))


def partners(samples: Sequence[Sample], usable: Sequence[bool]) -> list[int | None]:
    """For each of B samples the place of the usable one that lends it something; None if there is none."""
    found: list[int | None] = []
    for place, own in enumerate(samples):
        others = [(place + offset) % len(samples) for offset in range(1, len(samples))]
        strangers = [at for at in others if usable[at] and not (own.group and samples[at].group == own.group)]
        different = (at for at in strangers if samples[at].answer != own.answer)
        found.append(next(different, strangers[0] if strangers else None))
    return found


def _tokens_within(vlm: VLM, ids: Ids, characters: int) -> int:
    """The most leading tokens whose text has no more than so many characters."""
    return bisect_right(range(len(ids) + 1), characters, key=lambda count: len(_text(vlm, ids[:count]))) - 1


def _tokens_over(vlm: VLM, ids: Ids, characters: int) -> int:
    """The fewest leading tokens whose text has at least so many characters."""
    return bisect_left(range(len(ids)), characters, key=lambda count: len(_text(vlm, ids[:count])))


def _text(vlm: VLM, ids: Ids) -> str:
    text = vlm.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _ids(vlm: VLM, text: str) -> Ids:
    return tuple(token_ids(vlm.tokenizer, text, special=True))


def _row(
    sample: Sample,
    style: PromptStyle,
    answer: tuple[str, Completion, int],
    judges: Judges,
    task: str,
    arm: str,
    step: int,
) -> AnswerRow:
    text, completion, put = answer
    opens = "" if arm == NO_REASONING else style.opens
    text, reply = opens + text, reply_of(Completed(completion, 0))
    form, _, behind = split(text)
    judged = text if form in ("unclosed", "none") else behind
    row = make_row(
        sample,
        judged,
        reply.state,
        judges,
        task=task,
        label=arm,
        step=step,
        tokens=put + len(completion.ids),
        finish=completion.finish,
    )
    return replace(row, completion=text, well_formed=well_formed(text))
