"""What a base model must show before reinforcement is tried on it: that it sees, and that thinking pays.

Beside these two gates stand the figures that say how much of what reinforcement brings out was put in before.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from cleareyed.evaluation.stats import guess_accuracy, guesser_pass_at_k, paired, pass_at_k, share_interval
from cleareyed.models.encode import encode
from cleareyed.models.sample import sample as draw_completions
from cleareyed.models.vlm import VLM, EncodedPrompt, SamplingParams
from cleareyed.recipe import PretrainRecipe
from cleareyed.scoring.rules import accuracy_rule, well_formed
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.scenes.questions import SKILLS, left_of, nearer
from cleareyed.tasks.scenes.render import render
from cleareyed.tasks.scenes.world import BENCH, TRAIN, Kind, draw_scene
from cleareyed.tasks.task import Sample, Task
from cleareyed.training.corpus import draw_page
from cleareyed.training.observe import Observer
from cleareyed.training.pack import draw_turns

LINE = re.compile(r"^\d+\. (\w+ \w+) ([a-j]) (\d)$")
BATCH = 64
CORPUS_SEED = 3
"""Pages for the shares of the corpus are drawn from this seed, pretraining's from 1."""
SCENES_SEED = 9
"""Scenes of the first gate are drawn from this seed: neither pretraining nor any split has it."""


@dataclass(frozen=True)
class Seen:
    """How well lists of objects match their scenes, over all scenes asked about."""

    precision: float
    recall: float
    left_right: float
    """Share of pairs, clear by the questions' margins and both listed, whose places are in the right order."""
    near_far: float


def sees(vlm: VLM, kind: Kind, scenes: int, observer: Observer) -> Seen:
    """Ask for a list of the objects of `scenes` new scenes, greedily, and hold it against them."""
    drawn = [draw_scene(np.random.default_rng([SCENES_SEED, i]), kind) for i in range(scenes)]
    leads = ["Objects from left to right:\n", "Objects from near to far:\n"]
    prompts = [encode(vlm, leads[i % 2], [render(scene)]) for i, scene in enumerate(drawn)]
    texts = [texts[0] for texts in answers(vlm, prompts, SamplingParams(120, 0.0), 0, observer, "listing")]
    listed = right = there = 0
    order = {"x": [0, 0], "z": [0, 0]}
    for scene, text in zip(drawn, texts, strict=True):
        found = [match for line in text.splitlines() if (match := LINE.match(line))]
        names = {match[1]: (match[2], match[3]) for match in found}
        things = {thing.name: thing for thing in scene.things}
        listed += len([line for line in text.splitlines() if line.strip()])
        right += len(names.keys() & things.keys())
        there += len(things)
        for a, b in combinations(sorted(names.keys() & things.keys()), 2):
            for axis, truth in (
                ("x", left_of(scene, things[a], things[b])),
                ("z", nearer(scene, things[a], things[b])),
            ):
                if truth is not None:
                    i = "xz".index(axis)
                    order[axis][0] += (names[a][i] < names[b][i]) if truth else (names[a][i] > names[b][i])
                    order[axis][1] += 1
    return Seen(
        right / max(listed, 1),
        right / there,
        order["x"][0] / max(order["x"][1], 1),
        order["z"][0] / max(order["z"][1], 1),
    )


def corpus_shares(vlm: VLM, recipe: PretrainRecipe, pages: int) -> dict[str, object]:
    """What the turns about `pages` pages hold, packed as in pretraining: shares by style, and of turns that show
    working, correct a first look, or have the form that the format reward asks for."""
    found: Counter[str] = Counter()
    for number in range(pages):
        rng = np.random.default_rng([recipe.seed, CORPUS_SEED, number])
        for style, turn, _, _ in draw_turns(vlm, rng, draw_page(rng), recipe.mixture, recipe.tokens_per_image):
            found[style] += 1
            found["working"] += ", so " in turn.body
            found["correction"] += "wait," in turn.body
            found["formed"] += well_formed("<think>" + turn.body) and turn.lead.endswith("<think>")
    turns = sum(found[style] for style in recipe.mixture)
    return {"turns": turns, **{name: count / turns for name, count in found.items()}}


def answers(
    vlm: VLM, prompts: Sequence[EncodedPrompt], params: SamplingParams, seed: int, observer: Observer, what: str
) -> list[list[str]]:
    """The completions' texts, `params.group` for each prompt."""
    generator = torch.Generator(device=vlm.device).manual_seed(seed)
    texts: list[list[str]] = []
    for start in range(0, len(prompts), BATCH):
        groups = draw_completions(vlm, prompts[start : start + BATCH], params, generator)
        texts += [[completion.text for completion in group] for group in groups]
        observer.status(what, len(texts), len(prompts))
    return texts


def asked(
    vlm: VLM, samples: Sequence[Sample], style_name: str, params: SamplingParams, seed: int, observer: Observer
) -> list[list[str]]:
    """The samples' answers in a prompt style, with what the prompt opened put back in front."""
    style = prompt_style(style_name)
    prompts = [
        encode(vlm, prompt_text(style, sample.question), [load() for load in sample.images], style.chat)
        for sample in samples
    ]
    found = answers(vlm, prompts, params, seed, observer, style_name)
    return [[style.opens + text for text in texts] for texts in found]


def right(samples: Sequence[Sample], texts: Sequence[str], rule: str) -> list[bool]:
    judge = accuracy_rule(rule)
    return [judge(text, sample).correct for sample, text in zip(samples, texts, strict=True)]


def by_skill(samples: Sequence[Sample], values: Sequence[bool]) -> dict[str, float]:
    return {
        skill: float(np.mean([v for s, v in zip(samples, values, strict=True) if s.skill == skill]))
        for skill in SKILLS
    }


def measure_gates(
    vlm: VLM, train: Task, bench: Task, items: int, observer: Observer, scenes: int = 300
) -> dict[str, object]:
    """Both gates and the figures around them, on the first `items` samples of a training split and of a bench
    and on `scenes` new scenes of each kind.

    Thought and immediate answer are both sampled at temperature 1 and read by `any-form`.
    """
    some, hard = list(train.samples[:items]), list(bench.samples[:items])
    once, greedy = SamplingParams(128, 1.0), SamplingParams(128, 0.0)
    result: dict[str, object] = {"items": items}
    for name, kind in (("train", TRAIN), ("bench", BENCH)):
        result[f"sees/{name}"] = vars(sees(vlm, kind, scenes, observer))
    thought = right(some, [t[0] for t in asked(vlm, some, "plain-worked", once, 1, observer)], "any-form")
    at_once = right(some, [t[0] for t in asked(vlm, some, "plain", once, 2, observer)], "any-form")
    pays = paired(at_once, thought, [""] * items)
    result["thinking_pays"] = {
        "thought": pays.second,
        "at_once": pays.first,
        "difference": pays.difference,
        "interval": [pays.interval.low, pays.interval.high],
        "thought_by_skill": by_skill(some, thought),
        "at_once_by_skill": by_skill(some, at_once),
    }
    for name, samples in (("train", some), ("bench", hard)):
        for style in ("plain", "plain-worked"):
            values = right(samples, [t[0] for t in asked(vlm, samples, style, greedy, 0, observer)], "any-form")
            result[f"{style}/{name}"] = {"accuracy": float(np.mean(values)), "by_skill": by_skill(samples, values)}
        texts = [t[0] for t in asked(vlm, samples, "base", greedy, 0, observer)]
        values = right(samples, texts, "paper-reward")
        interval = share_interval(values, [""] * len(values))
        result[f"paper_prompt/{name}"] = {
            "format_rate": float(np.mean([well_formed(text) for text in texts])),
            "paper_reward_accuracy": float(np.mean(values)),
            "interval": [interval.low, interval.high],
            "any_form_accuracy": float(np.mean(right(samples, texts, "any-form"))),
        }
        groups = asked(vlm, samples, "base", SamplingParams(128, 1.0, 8), 3, observer)
        formed = [well_formed(text) for texts in groups for text in texts]
        wins = [sum(right([sample] * 8, texts, "strict")) for sample, texts in zip(samples, groups, strict=True)]
        result[f"pass_at_8/{name}"] = {
            "pass_at_1": float(np.mean(wins)) / 8,
            "pass_at_8": float(np.mean([pass_at_k(8, win, 8) for win in wins])),
            "format_rate_sampled": float(np.mean(formed)),
            "guesser_pass_at_8": guesser_pass_at_k([len(s.choices) for s in samples], 8, float(np.mean(formed))),
        }
        result[f"guessing/{name}"] = guess_accuracy(samples)
    return result
