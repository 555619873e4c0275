"""The corpus: its working is right, its tags rare and mostly ill-formed, its turns blind to each other."""

import re

import numpy as np
import pytest
import torch

from cleareyed.models.build import new_vlm
from cleareyed.recipe import ShapeSpec
from cleareyed.scoring.rules import well_formed
from cleareyed.tasks.prompts import STYLES as PROMPTS
from cleareyed.tasks.scenes.questions import ask_count
from cleareyed.tasks.scenes.world import HELD_OUT
from cleareyed.training.corpus import FORMED, STYLES, draw_any_question, draw_page, in_order, working
from cleareyed.training.pack import draw_batch
from cleareyed.training.pretrain import body_logits, image_features
from cleareyed.training.tokenizer import train_tokenizer

SHAPE = ShapeSpec(
    vocab=512, hidden=64, layers=2, heads=2, kv_heads=1, intermediate=64, vision_hidden=32, vision_layers=1,
    vision_heads=2,
)  # fmt: skip


def turns(style, count):
    rng = np.random.default_rng(5)
    return [STYLES[style](rng, draw_page(rng)) for _ in range(count)]


@pytest.fixture(scope="module")
def vlm():
    texts = [turn.lead + turn.body for style in STYLES for turn in turns(style, 60)]
    return new_vlm(SHAPE, train_tokenizer(texts, SHAPE.vocab), 0)


def test_working_compares_right_and_ends_in_the_answer():
    rng = np.random.default_rng(3)
    for i in range(600):
        page = draw_page(rng)
        question = draw_any_question(rng, page)
        text = working(rng, question, page.scene, slip=i % 3 == 0)
        assert text.endswith(f"so {question.answer}")
        for a, sign, b in re.findall(r"(\d+) ([<>]) (\d+)", text):
            assert (int(a) < int(b)) == (sign == "<")
        for a, sign, b in re.findall(r"([a-j]) ([<>]) ([a-j])", text):
            assert (a < b) == (sign == "<")
        for a, b, c in re.findall(r"(\d+) \+ (\d+) = (\d+)", text):
            assert int(a) + int(b) == int(c)


def test_counting_names_all_objects_and_numbers_those_that_count():
    rng = np.random.default_rng(8)
    for _ in range(200):
        page = draw_page(rng)
        question = ask_count(rng, page.scene, page.target or page.scene.things[0].colour)
        text = working(rng, question, page.scene)
        named = re.findall(r"(\w+ \w+)(?: (\d))?, ", text)
        assert [name for name, _ in named] == [thing.name for thing in in_order(page.scene.things)]
        counted = [name for name, number in named if number]
        assert counted == [thing.name for thing in in_order(question.things)]
        assert [int(number) for _, number in named if number] == list(range(1, len(counted) + 1))


def test_pages_show_no_held_out_pair():
    rng = np.random.default_rng(4)
    for _ in range(300):
        assert not {(t.colour, t.shape) for t in draw_page(rng).scene.things} & HELD_OUT


@pytest.mark.parametrize("style", ["suppose", "notes"])
def test_texts_name_every_pair_though_pictures_do_not(style):
    texts = "\n".join(turn.body for turn in turns(style, 3000))
    for colour, shape in HELD_OUT:
        assert f"{colour} {shape}" in texts


def test_supposed_things_are_told_with_their_new_looks_in_their_old_places():
    rng = np.random.default_rng(6)
    seen = 0
    for _ in range(400):
        page = draw_page(rng)
        turn = STYLES["suppose"](rng, page)
        changes = re.findall(r"Suppose the (\w+ \w+) were a (\w+ \w+)\.", turn.lead)
        told = dict(re.findall(r"^\d+\. (\w+ \w+) (\w \d)$", turn.body, re.M))
        if not told:
            continue
        places = {thing.name: thing.place for thing in page.scene.things}
        for old, new in changes:
            places[new] = places.pop(old)
        assert told == places
        seen += 1
    assert seen > 20


def test_texts_opened_by_think_are_seldom_well_formed():
    found = [well_formed("<think>" + turn.body) for turn in turns("tags", 3000)]
    assert abs(np.mean(found) - FORMED) < 0.03


def test_the_papers_prompt_is_never_in_the_corpus():
    start = PROMPTS["base"].template.split("{question}")[0]
    for style in STYLES:
        for turn in turns(style, 200):
            assert start not in turn.lead + turn.body
            assert ("<think>" in turn.lead + turn.body) == style.startswith("tags")


def test_any_text_round_trips_and_the_worlds_words_are_whole(vlm):
    for text in ("a tab\tand\nlines", "naïve 漢字 🙂", "<think> red cube </think><answer> left </answer>", "3 12 345"):
        assert vlm.tokenizer.decode(vlm.tokenizer(text)["input_ids"]) == text
    for word in (" red", " cube", " cylinder", " left"):
        assert len(vlm.tokenizer(word)["input_ids"]) == 1


def test_batches_are_functions_of_their_seed(vlm):
    mixture = {"list": 1.0, "worked": 1.0}
    a, b, c = (draw_batch(vlm, mixture, 2, 120, seed) for seed in ((0, 1, 5), (0, 1, 5), (0, 1, 6)))
    assert torch.equal(a.ids, b.ids)
    assert torch.equal(a.pixels, b.pixels)
    assert a.ids.shape != c.ids.shape or not torch.equal(a.ids, c.ids)


def test_a_turn_sees_its_image_and_itself_and_no_other_turn(vlm):
    """The logits of a packed turn equal those of the turn alone behind its image."""
    batch = draw_batch(vlm, {"direct": 1.0, "where": 1.0}, 1, 120, (0, 1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = body_logits(vlm, batch, image_features(vlm, batch))
    image = int((batch.ids[0] == vlm.image_token_id).sum()) + 2
    with torch.no_grad():
        at = image
        compared = 0
        ends = (batch.ids[0] == vlm.eos_ids[0]).nonzero()[:, 0].tolist()
        places = (batch.weights[0] > 0).nonzero()[:, 0].tolist()
        for end in ends:
            if end < at:
                continue
            turn = batch.ids[0, at : end + 1]
            alone = torch.cat([batch.ids[0, :image], turn])[None]
            plain = vlm.model(
                input_ids=alone,
                pixel_values=batch.pixels,
                image_grid_thw=batch.grid,
                mm_token_type_ids=(alone == vlm.image_token_id).int(),
            ).logits[0, image:-1]
            mine = torch.stack([logits[places.index(p)] for p in range(at, end)])
            assert (mine - plain).abs().max() < 0.05  # bf16 autocast against fp32
            compared += 1
            at = end + 1
    assert compared >= 3


def test_straight_tags_hold_no_corrections():
    found = {style: sum("wait" in turn.body for turn in turns(style, 1500)) for style in ("tags", "tags-straight")}
    assert found["tags-straight"] == 0 < found["tags"]
