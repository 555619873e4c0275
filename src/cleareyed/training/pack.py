"""Batches for pretraining: an image, and behind it several turns that see the image and themselves, not each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cleareyed.models.encode import encode
from cleareyed.models.vlm import VLM, EncodedPrompt
from cleareyed.tasks.scenes.render import render
from cleareyed.tasks.scenes.world import RADII, SIDE, Scene
from cleareyed.training.corpus import STYLES, Page, Turn, draw_page

LEAD_WEIGHT = 0.1
"""Weight of the lead's tokens in the loss: what is asked is mostly chance and little can be learnt from it."""

MISSES = 6
"""So many turns in a row may prove too long for what is left of the budget before an image is taken as full."""


@dataclass(frozen=True)
class Packed:
    """B images with their turns, padded to T tokens."""

    ids: torch.Tensor  # (B, T)
    positions: torch.Tensor  # (3, B, T)
    visible: torch.Tensor  # (B, 1, T, T) bool: may the row's token see the column's
    targets: torch.Tensor  # (B, T): the next token of the same turn
    weights: torch.Tensor  # (B, T): its weight in the loss, 0 where there is none
    pixels: torch.Tensor  # (patches of all images, values)
    grid: torch.Tensor  # (B, 3)
    names: (
        torch.Tensor
    )  # (image tokens of all images, 2): ids of colour and shape of what stands there, END if nothing
    turns: int


def draw_batch(vlm: VLM, mixture: dict[str, float], images: int, budget: int, seed: tuple[int, ...]) -> Packed:
    """The batch that belongs to `seed`: `images` scenes, each with turns of at most `budget` text tokens in all."""
    rng = np.random.default_rng(seed)
    pictures, scenes, rows = [], [], []
    for _ in range(images):
        page = draw_page(rng)
        pictures.append(render(page.scene))
        scenes.append(page.scene)
        rows.append([(lead, body) for _, _, lead, body in draw_turns(vlm, rng, page, mixture, budget)])
    features = vlm.image_processor(pictures, return_tensors="pt")
    grid = features["image_grid_thw"]
    image = encode(vlm, "", pictures[:1])  # all pictures have one size, so one prefix stands for all
    return _pack(vlm, image, rows, features["pixel_values"], grid, names_by_place(vlm, scenes, grid[0]))


def draw_turns(
    vlm: VLM, rng: np.random.Generator, page: Page, mixture: dict[str, float], budget: int
) -> list[tuple[str, Turn, list[int], list[int]]]:
    """Turns about a page, of at most `budget` tokens in all: the style, the turn, the tokens of its lead and body."""
    names = list(mixture)
    odds = np.array([mixture[name] for name in names])
    odds = odds / odds.sum()
    turns: list[tuple[str, Turn, list[int], list[int]]] = []
    length = misses = 0
    while misses < MISSES:
        style = names[rng.choice(len(names), p=odds)]
        turn = STYLES[style](rng, page)
        lead = vlm.tokenizer(turn.lead)["input_ids"]
        body = [*vlm.tokenizer(turn.lead + turn.body)["input_ids"][len(lead) :], vlm.eos_ids[0]]
        if length + len(lead) + len(body) > budget:
            misses += 1
            continue
        turns.append((style, turn, lead, body))
        length += len(lead) + len(body)
    return turns


def names_by_place(vlm: VLM, scenes: Sequence[Scene], grid: torch.Tensor) -> torch.Tensor:
    """What stands in the part of the picture that each image token covers: (images * tokens, 4) token ids.

    The four are colour, shape, column and row of the object whose middle lies there, the nearest if there are
    several; the ending token, four times, if there is none. `grid` (3,) is that of every image.
    """
    merge = vlm.image_processor.merge_size
    height, width = int(grid[1]) // merge, int(grid[2]) // merge
    places = torch.full((len(scenes), height * width, 4), vlm.eos_ids[0])
    for number, scene in enumerate(scenes):
        for thing in sorted(scene.things, key=lambda t: -t.z):
            column, row, _ = scene.camera.project(thing.x, RADII[thing.size], thing.z)
            down = min(max(int(row * height / SIDE), 0), height - 1)
            across = min(max(int(column * width / SIDE), 0), width - 1)
            words = vlm.tokenizer(f" {thing.name} {thing.place}")["input_ids"]
            places[number, down * width + across] = torch.tensor(words)
    return places.reshape(-1, 4)


def _pack(
    vlm: VLM,
    image: EncodedPrompt,
    rows: list[list[tuple[list[int], list[int]]]],
    pixels: torch.Tensor,
    grid: torch.Tensor,
    names: torch.Tensor,
) -> Packed:
    p, start = len(image.ids), image.next_position
    total = p + max(sum(len(lead) + len(body) for lead, body in turns) for turns in rows)
    b = len(rows)
    ids = torch.full((b, total), vlm.eos_ids[0])
    positions = torch.zeros(3, b, total, dtype=torch.long)
    owner = torch.full((b, total), -1)  # which turn a token belongs to; -1 padding, 0 the image
    targets = torch.zeros(b, total, dtype=torch.long)
    weights = torch.zeros(b, total)
    ids[:, :p], positions[:, :, :p], owner[:, :p] = image.ids, image.positions[:, None], 0
    for row, turns in enumerate(rows):
        at = p
        for number, (lead, body) in enumerate(turns, start=1):
            text = lead + body
            span = slice(at, at + len(text))
            ids[row, span] = torch.tensor(text)
            positions[:, row, span] = torch.arange(start, start + len(text))
            owner[row, span] = number
            before = slice(at, at + len(text) - 1)
            targets[row, before] = torch.tensor(text[1:])
            weights[row, before] = LEAD_WEIGHT
            weights[row, at + len(lead) - 1 : at + len(text) - 1] = 1.0
            at += len(text)
    earlier = torch.ones(total, total, dtype=torch.bool).tril()
    same = owner[:, :, None] == owner[:, None, :]  # (B, T, T)
    pictured = (owner == 0)[:, None, :]  # (B, 1, T)
    visible = (earlier & (same | pictured))[:, None]  # (B, 1, T, T)
    turns_total = sum(len(turns) for turns in rows)
    return Packed(ids, positions, visible, targets, weights, pixels, grid, names, turns_total)
