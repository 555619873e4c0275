"""Drawing completions: each prompt is run once, and all its completions continue from there."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from cleareyed.models.forward import Prefix, language, next_logprobs, precision, run_prefix
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, Progress, SamplingParams

BLOCK = 64
"""Room for completion tokens is made in blocks of this many."""
COMPACT_AT = 1 / 8
"""Finished rows leave the batch when they are this share of it (of 0.01 to 0.5, what ran fastest on a CPU)."""


class GrowingCache(Cache):
    """Keys and values of N completions behind their prompts, in buffers that one decoding step writes one slot of."""

    def __init__(self, prefix: Prefix, rows: Tensor) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.length = prefix.mask.shape[1]
        pairs = zip(prefix.keys, prefix.values, strict=True)
        self.buffers = [[part.index_select(0, rows) for part in pair] for pair in pairs]  # (N, H, room, d)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.buffers[layer_idx]
        keys[:, :, self.length] = key_states[:, :, 0]
        values[:, :, self.length] = value_states[:, :, 0]
        return keys[:, :, : self.length + 1], values[:, :, : self.length + 1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def make_room(self, slots: int) -> None:
        """Append empty slots where the buffers are full."""
        if self.length == self.buffers[0][0].shape[2]:
            self.buffers = [
                [torch.cat([part, part.new_zeros(*part.shape[:2], slots, part.shape[3])], dim=2) for part in pair]
                for pair in self.buffers
            ]

    def keep(self, rows: Tensor) -> None:
        self.buffers = [[part.index_select(0, rows) for part in pair] for pair in self.buffers]


def sample(
    vlm: VLM,
    prompts: Sequence[EncodedPrompt],
    params: SamplingParams,
    generator: torch.Generator,
    progress: Progress | None = None,
    prefix: Prefix | None = None,
) -> list[list[Completion]]:
    """Draw `params.group` completions of each prompt: one list per prompt, in order.

    The draws depend on the generator's state, the prompts and the weights, and on nothing else. `prefix`, if given, is
    `run_prefix` of the same prompts with the present weights, and is used instead of running them. `progress` is
    called with (completions finished, completions in all) whenever the number changes.
    """
    if not prompts:
        return []
    with torch.inference_mode(), precision(vlm):
        if prefix is None:
            prefix = run_prefix(vlm, prompts)
        return _decode(vlm, prefix, params, generator, progress)


def _decode(
    vlm: VLM, prefix: Prefix, params: SamplingParams, generator: torch.Generator, progress: Progress | None
) -> list[list[Completion]]:
    device, longest = vlm.device, params.max_tokens
    live = torch.arange(
        len(prefix.mask) * params.group, device=device
    )  # (n,) which completion each row of the batch is
    total = len(live)
    rows = live // params.group  # (n,) the prompt of each row
    ids = torch.zeros(total, longest, dtype=torch.int64, device=device)
    logprobs = torch.zeros(total, longest, device=device)
    lengths = torch.full((total,), longest, device=device)
    stopped = torch.zeros(total, dtype=torch.bool, device=device)
    eos = torch.tensor(vlm.eos_ids, device=device)
    embed = vlm.model.get_input_embeddings()
    cache = GrowingCache(prefix, rows)
    states = prefix.hidden.index_select(0, rows)  # (n, D)
    mask = prefix.mask[rows][:, None, None]  # (n, 1, 1, P + step)
    reported = 0
    for step in range(longest):
        chosen, scores = _choose(vlm, states, params.temperature, generator, live, total)
        ids[live, step], logprobs[live, step] = chosen, scores
        ended = torch.isin(chosen, eos) & ~stopped[live]
        lengths[live[ended]] = step + 1
        stopped[live[ended]] = True
        finished = int(stopped.sum())
        if progress is not None and finished > reported:
            progress(finished, total)
            reported = finished
        if finished == total or step + 1 == longest:
            break
        if finished - (total - len(live)) >= COMPACT_AT * len(live):
            stay = (~stopped[live]).nonzero()[:, 0]
            live, rows, chosen, mask = live[stay], rows[stay], chosen[stay], mask[stay]
            cache.keep(stay)
        cache.make_room(min(BLOCK, longest - step))
        mask = torch.cat([mask, mask.new_ones(len(live), 1, 1, 1)], dim=3)
        positions = (prefix.next_positions[rows] + step).expand(3, 1, -1).transpose(1, 2)  # (3, n, 1)
        states = language(vlm, embed(chosen[:, None]), positions, cache, mask)[:, -1]
        cache.length += 1
    if progress is not None and reported < total:
        progress(total, total)
    completions = _completions(vlm, ids, logprobs, lengths, stopped)
    return [completions[start : start + params.group] for start in range(0, total, params.group)]


def _choose(
    vlm: VLM, states: Tensor, temperature: float, generator: torch.Generator, live: Tensor, total: int
) -> tuple[Tensor, Tensor]:
    """The next token (n,) of every row and its logprob (n,).

    One number is drawn for every completion, finished or not, so that a completion's draws do not depend on when
    others leave the batch. It picks the token by the inverse of the cumulative distribution.
    """
    scores = next_logprobs(vlm, states, temperature if temperature > 0 else 1.0)  # (n, V)
    if temperature == 0:
        best, chosen = scores.max(dim=1)
        return chosen, best
    uniform = torch.rand(total, generator=generator, dtype=torch.float64, device=generator.device).to(live.device)
    heights = scores.exp().cumsum(1, dtype=torch.float64)  # (n, V)
    # Strictly below the last height, and to the right of equal ones: a token of probability 0 is never drawn.
    levels = uniform[live, None] * (1 - 1e-12) * heights[:, -1:]
    chosen = torch.searchsorted(heights, levels, right=True)  # (n, 1)
    return chosen[:, 0], scores.gather(1, chosen)[:, 0]


def _completions(vlm: VLM, ids: Tensor, logprobs: Tensor, lengths: Tensor, stopped: Tensor) -> list[Completion]:
    completions = []
    for row, scores, length, stop in zip(
        ids.tolist(), logprobs.tolist(), lengths.tolist(), stopped.tolist(), strict=True
    ):
        text = vlm.tokenizer.decode(row[: length - 1] if stop else row[:length], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        finish = "stop" if stop else "length"
        completions.append(Completion(tuple(row[:length]), tuple(scores[:length]), finish, text))
    return completions
