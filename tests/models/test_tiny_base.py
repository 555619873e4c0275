"""The embedded base model: loadable by transformers alone, small, and a base model in its behaviour."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2VLForConditionalGeneration

import cleareyed
from cleareyed.models.load import load_vlm
from cleareyed.models.vlm import SamplingParams
from cleareyed.recipe import ModelSpec
from cleareyed.scoring.rules import well_formed
from cleareyed.tasks.scenes.task import scenes_task
from cleareyed.tasks.scenes.world import TRAIN
from cleareyed.training.gates import asked, right, sees
from cleareyed.training.observe import Silent

FOLDER = Path(cleareyed.__file__).parent / "assets" / "tiny-base"
SOME = scenes_task("bench").samples[:64]


@pytest.fixture(scope="module")
def vlm():
    return load_vlm(ModelSpec(path="tiny-base"))


def test_transformers_alone_loads_it():
    model = Qwen2VLForConditionalGeneration.from_pretrained(FOLDER, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert sum(p.numel() for p in model.parameters()) <= 7_000_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 14_000_000
    AutoImageProcessor.from_pretrained(FOLDER, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert tokenizer.decode(tokenizer("naïve <think> 漢 🙂\n")["input_ids"]) == "naïve <think> 漢 🙂\n"
    assert set(tokenizer("<think></think><answer></answer>")["input_ids"]).isdisjoint(tokenizer.all_special_ids)


def test_it_sees(vlm):
    found = sees(vlm, TRAIN, 48, Silent())
    assert min(found.precision, found.recall, found.left_right, found.near_far) >= 0.93  # 0.97 over 300 scenes


def test_under_the_papers_prompt_it_is_a_base_model(vlm):
    texts = [t[0] for t in asked(vlm, SOME, "base", SamplingParams(96, 0.0), 0, Silent())]
    assert sum(map(well_formed, texts)) / len(SOME) <= 0.45  # 0.40 over the whole bench; this is a part of it
    assert sum(right(SOME, texts, "paper-reward")) / len(SOME) <= 0.40  # likewise 0.35


@pytest.mark.parametrize("split", ["val", "bench"])
def test_in_the_corpus_own_form_it_answers(vlm, split):
    some = scenes_task(split).samples[:64]
    texts = [t[0] for t in asked(vlm, some, "plain-worked", SamplingParams(96, 0.0), 0, Silent())]
    assert sum(right(some, texts, "any-form")) / len(some) >= 0.70


def test_the_card_states_what_was_put_in():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for word in ("corrections", "working", "precision", "recall", "pass@8", "Apache-2.0"):
        assert re.search(word, card, re.IGNORECASE)
