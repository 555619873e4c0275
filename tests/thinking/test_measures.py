import random
import time

import pytest
from scipy.stats import fisher_exact

from cleareyed.evaluation.rows import judges_of, make_row
from cleareyed.tasks.prompts import offer, offered
from cleareyed.tasks.task import Sample
from cleareyed.thinking.gains import AS_IS, BLANK_IMAGE, EMPTY_THOUGHT, NO_REASONING, necessity, sight
from cleareyed.thinking.items import Item, english, forms, items_of_answers, split
from cleareyed.thinking.length import lengths
from cleareyed.thinking.quality import compression_ratio, consistency, degeneration, repeated_ngrams
from cleareyed.thinking.reflection import (
    UNDERSTAND_R1_ZERO,
    examples,
    fisher_greater,
    reflection,
    revision,
    rise,
    rises,
    understand_r1_zero,
    visualthinker,
)

SIDES = ("left", "right")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think> a </think> <answer>b</answer>", ("closed", " a ", " <answer>b</answer>")),
        ("<think> \n</think>b", ("empty", "", "b")),
        ("<think>a</think> or <think>b</think>c", ("several", "a\nb", "c")),
        ("<think>a</think>b<think>c", ("closed", "a", "b<think>c")),
        ("<think>a <answer>b</answer> c", ("unclosed", "a ", "<answer>b</answer> c")),
        ("<think>a", ("unclosed", "a", "")),
        ("a</think>b", ("unopened", "a", "b")),
        ("a</think>b<think>c</think>d", ("unopened", "a", "d")),
        ("a b", ("none", None, "a b")),
        ("", ("none", None, "")),
    ],
)
def test_how_texts_are_parted(text, expected):
    assert split(text) == expected


def test_other_languages_are_told_and_counted():
    assert english("<think> red cube 1, blue ball 2, so 2 </think>")
    assert english("12 + 3 = 15") and english("")
    assert not english("让我看看 红色的方块在左边 所以答案是左边")
    assert not english("Der Würfel ist nicht links und die Kugel ist rechts")
    assert not english("la pelota es roja y el cubo está en la mesa, es de las que hay")
    assert english("the word 'ist' is German and so is the word 'nicht' and 'und'")
    items = [Item("warte, wait, das ist nicht das, und der Ball"), Item("wait"), Item("<think>check</think>a")]
    assert forms(items) == {"none": 2, "closed": 1, "other language": 1}
    found = reflection(items)
    assert found.flags["visualthinker"] == [None, True, True] and found.other_language == 1
    assert found.flags["revision"] == [None, None, None] and found.without_choices == 2
    assert found.rates["visualthinker"].n == 2 and found.rates["revision"] is None


def test_the_words_of_visualthinker_are_whole_words():
    assert visualthinker("Wait, possibly; POSSIBLE. Not yet! Let me check-in, aha") == [
        "wait",
        "possibly",
        "possible",
        "yet",
        "check",
        "aha",
    ]
    assert visualthinker("checking unchecked checkbox waiter await impossible verified yeti") == []


def test_the_phrases_of_understand_r1_zero_are_substrings():
    assert understand_r1_zero("I Rechecked it, let me double-check and THINK AGAIN") == [
        "recheck",
        "double-check",
        "think again",
    ]
    assert len(UNDERSTAND_R1_ZERO) == 15
    assert all(understand_r1_zero(f"so, {phrase}.") for phrase in UNDERSTAND_R1_ZERO)
    assert understand_r1_zero("wait, check") == []


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("so left. Wait, so right.</think><answer>right</answer>", "right", ("wait", "left", "right", "helped")),
        ("so left. Wait, so right.</think><answer>right</answer>", "left", ("wait", "left", "right", "hurt")),
        ("so left. Wait, so right. Check: so left.", "left", ("wait", "left", "right", "nothing")),
        ("so left. Wait, let me reconsider. So right.", "right", ("wait", "left", "right", "helped")),
        ("so left. Wait, so left. Let me verify, so right.", "right", ("verify", "left", "right", "helped")),
    ],
)
def test_a_revision_changes_the_candidate_behind_a_reflecting_phrase(text, gold, expected):
    found = revision(f"<think>{text}", SIDES, gold)
    assert (found.phrase, found.before, found.after, found.outcome) == expected
    assert f"<think>{text}"[slice(*found.span)].lower() == found.phrase


@pytest.mark.parametrize(
    "text",
    [
        "so left. Wait, so left.</think><answer>left</answer>",
        "so left. So right.",  # no reflecting phrase
        "Wait, so left.",  # nothing before
        "left or right? Wait, it is right.",  # an alternative states nothing
        "so left. Wait, hm.",
        "",
    ],
)
def test_no_revision(text):
    assert revision(text, SIDES, "left") is None
    assert revision("so left. Wait, so right.", (), "left") is None


def test_reflection_counts_outcomes_and_asks_the_grader_where_a_phrase_stands():
    items = [
        Item("so left. Wait, so right.", "right", choices=SIDES),
        Item("so left. Wait, recheck: so right.", "left", choices=SIDES),
        Item("recheck", choices=SIDES),
        Item("left", choices=SIDES),
    ]
    found = reflection(items)
    assert (found.helped, found.hurt, found.nothing) == (1, 1, 0)
    assert [found.rates[name].value for name in found.rates] == [0.5, 0.5, 0.5]
    graded = reflection(items, [True, None, False, True])
    assert graded.flags["understand-r1-zero"] == [False, None, False, False]
    assert graded.rates["understand-r1-zero"].n == 3
    assert examples(items, found.flags["revision"], 1) == items[:1]
    with pytest.raises(ValueError, match="1 gradings of 4"):
        reflection(items, [True])


def test_fisher_is_scipys():
    for hits, n, base, base_n in ((7, 10, 2, 12), (0, 5, 3, 5), (5, 5, 0, 9), (3, 64, 0, 64)):
        table = [[hits, n - hits], [base, base_n - base]]
        assert fisher_greater(hits, n, base, base_n) == pytest.approx(fisher_exact(table, "greater").pvalue)
    assert fisher_greater(0, 0, 1, 2) == 1.0


def test_a_rise_is_found_at_its_first_step_and_must_last():
    found = rise([(0, 2, 64), (25, 5, 64), (50, 20, 64), (75, 30, 64)])
    assert (found.start, found.step, found.lasts) == (0, 50, True)
    assert found.p[1] == pytest.approx(2 * fisher_greater(20, 64, 2, 64))  # the second smallest of three
    back = rise([(0, 2, 64), (50, 20, 64), (75, 3, 64)])
    assert (back.step, back.lasts) == (50, False)
    flat = rise([(0, 2, 64), (50, 2, 64)])
    assert (flat.step, flat.lasts) == (None, False)
    assert rise([(0, 0, 3)]).p == ()
    with pytest.raises(ValueError, match="needs steps"):
        rise([])
    by_step = {50: reflection([Item("wait")] * 30), 0: reflection([Item("so")] * 30)}
    assert rises(by_step)["visualthinker"].step == 50 and rises(by_step)["understand-r1-zero"].step is None


def test_lengths_by_verdict():
    items = [
        Item("<think> a b c </think> d", correct=True, tokens=9),
        Item("<think> a </think> d e", tokens=7, cut_off=True),
        Item("d", tokens=None),
    ]
    found = lengths(items)
    assert found.all.unit == "words" and found.all.thought.value == 2 and found.all.thought.n == 2
    assert found.all.answer.value == pytest.approx(4 / 3) and found.all.whole.value == 8
    assert (found.right.thought.value, found.wrong.thought.value) == (3, 1)
    assert (found.right.cut_off.value, found.wrong.cut_off.value) == (0, 0.5)
    counted = lengths(items, len)
    assert counted.all.unit == "tokens" and counted.right.thought.value == len(" a b c ")
    assert lengths([]).all.answer is None


def test_consistency_compares_the_conclusion_with_the_answer():
    items = [
        Item("<think>it is left, so left</think><answer>left</answer>", "left", choices=SIDES),
        Item("<think>so left</think><answer>right</answer>", "right", choices=SIDES),
        Item("<think>left or right?</think><answer>right</answer>", "right", choices=SIDES),
        Item("<answer>right</answer>", "right", choices=SIDES),
        Item("<think>so left</think><answer>right</answer>", "right"),
    ]
    found = consistency(items)
    assert (found.agree.value, found.right_thought.value, found.agree.n) == (0.5, 0.5, 2)
    assert (found.unread, found.without) == (1, 2)


def test_degeneration():
    assert repeated_ngrams(["a", "b", "c", "d", "e"]) == 0 and repeated_ngrams(["a"]) == 0
    assert repeated_ngrams(["a"] * 8) == pytest.approx(1 - 1 / 5)
    stuck, random_words = "the giraffe is not above the person. " * 40, " ".join(map(str, range(300)))
    assert compression_ratio(stuck) > 10 > 3 > compression_ratio(random_words)
    found = degeneration([Item(stuck), Item(random_words), Item("a a a a a a a a")])
    assert found.degenerate.value == pytest.approx(1 / 3)


def answers(arm, texts, gold="left"):
    rows = []
    for number, text in enumerate(texts):
        sample = Sample(f"s{number}", offer("Which?", SIDES), gold, SIDES, group=f"g{number // 2}")
        row = make_row(
            sample, text, "answered", judges_of(["any-form"]), task="t", label=arm, step=0, tokens=1, finish="stop"
        )
        rows.append(row)
    return rows


def test_thoughts_that_change_nothing_are_called_trivial():
    thinking = [f"<think>hm</think><answer>{('left', 'right')[i % 3 == 0]}</answer>" for i in range(24)]
    bare = [f"{('left', 'right')[i % 3 == 0]}" for i in range(24)]
    wrong = ["right"] * 24
    arms = {AS_IS: answers(AS_IS, thinking), EMPTY_THOUGHT: answers(EMPTY_THOUGHT, wrong)}
    found = necessity(arms)
    assert found.verdict == "needed" and found.thinking.arm == EMPTY_THOUGHT
    assert found.thinking.paired.difference == pytest.approx(16 / 24)
    arms[NO_REASONING] = answers(NO_REASONING, bare)  # the better of the two is what counts
    found = necessity(arms)
    assert found.verdict == "trivial" and found.thinking.arm == NO_REASONING
    assert found.sentence.startswith(
        "The thoughts are trivial: the thinking gain of +0.0 points (-24.2 to +24.2, n = 24"
    )
    assert found.sentence.endswith("includes 0 while thoughts are not empty.")
    arms[AS_IS] = answers(AS_IS, [text.replace("hm", "") for text in thinking])
    assert necessity(arms).verdict == "no thoughts"
    arms[AS_IS] = answers(AS_IS, ["<think>hm</think>right"] * 24)
    assert necessity(arms).verdict == "harmful"
    assert necessity({AS_IS: arms[AS_IS]}).verdict is None


def test_sight_is_measured_on_the_items_that_both_answered():
    arms = {AS_IS: answers(AS_IS, ["left"] * 10 + ["hm"]), BLANK_IMAGE: answers(BLANK_IMAGE, ["left", "right"] * 4)}
    found = sight(arms)
    assert found.sight.paired.n == 8 and found.sight.paired.difference == 0.5
    assert found.agreement[BLANK_IMAGE].value == 0.5
    assert found.accuracy[AS_IS].n == 11
    assert sight({AS_IS: arms[AS_IS]}).sight is None


def test_choices_are_read_from_the_question_where_the_record_does_not_tell():
    assert offered(offer("Which?", ("a", "b", "c")), "b") == ("a", "b", "c")
    assert offered(offer("Which?", ("a", "b")), "z") == () == offered("Which?", "a")
    (item, *_) = items_of_answers(answers("x", ["left"]), "any-form")
    assert item.choices == SIDES and item.correct and item.group == "g0"
    (item, *_) = items_of_answers(answers("x", ["left"]), "any-form", {"s0": ("left", "up")})
    assert item.choices == ("left", "up")


@pytest.mark.parametrize("kind", ["words", "waits", "tags", "unclosed"])
def test_a_hundred_thousand_tokens_take_less_than_a_second(kind):
    drawn = random.Random(0)
    vocabulary = {
        "words": ["left", "right", "so", "wait,", "the", "cube", "is", "check", "not", "."],
        "waits": ["wait"],
        "tags": ["<think>", "</think>", "<answer>", "</answer>"],
        "unclosed": ["<think> a", "so left."],
    }[kind]
    item = Item(" ".join(drawn.choices(vocabulary, k=100_000)), "left", choices=SIDES)
    start = time.process_time()
    assert item.form and reflection([item]) and lengths([item]) and consistency([item]) and degeneration([item])
    assert time.process_time() - start < 1
