"""Drawing completions: each prompt is run once, and all its completions continue from there."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cleareyed.errors import InputError
from cleareyed.models.decode import Decoder, decoder_weights
from cleareyed.models.forward import Prefix, run_prefix
from cleareyed.models.graphs import GraphDecoder
from cleareyed.models.kept import Kept
from cleareyed.models.vlm import VLM, Completion, EncodedPrompt, Progress, SamplingParams

BLOCK = 128
"""Tokens that are summed up together where the vocabulary is large."""
LOOK_EVERY = {"cuda": 8}
"""Steps after which is seen who has finished, if not each: looking makes a GPU wait."""
COMPACT_AT = 1 / 8
"""Finished rows leave the batch when they are this share of it."""


def sample(
    vlm: VLM,
    prompts: Sequence[EncodedPrompt],
    params: SamplingParams,
    generator: torch.Generator,
    progress: Progress | None = None,
    prefix: Prefix | None = None,
    on_group: Callable[[int, list[Completion]], None] | None = None,
    kept: Kept | None = None,
) -> list[list[Completion]]:
    """Draw `params.group` completions of each prompt: one list per prompt, in order.

    The draws depend on the generator's state, the prompts and the weights, and on nothing else. `prefix`, if given, is
    `run_prefix` of the same prompts with the present weights, and is used instead of running them; its graph, if it
    has one, is left alone. `kept`, empty, from `room_for`, takes what a backward pass needs. `progress` is called with
    (completions finished, completions in all) whenever the number changes, `on_group` with the index of a prompt and
    its completions as soon as the last of them is finished.

    Raises:
        InputError: logits that are not finite, from which nothing can be drawn.
    """
    if not prompts:
        return []
    total = len(prompts) * params.group
    drawn: dict[int, Completion] = {}
    groups: dict[int, list[Completion]] = {}
    for finished in _decode(vlm, prompts, params, generator, prefix, kept):
        drawn.update(finished)
        if progress is not None:
            progress(len(drawn), total)
        for b in sorted({index // params.group for index in finished}):
            members = range(b * params.group, (b + 1) * params.group)
            if all(index in drawn for index in members):
                groups[b] = [drawn[index] for index in members]
                if on_group is not None:
                    on_group(b, groups[b])
    return [groups[b] for b in range(len(prompts))]


@torch.inference_mode()  # entered anew after each yield: the caller's code runs outside of it
def _decode(
    vlm: VLM,
    prompts: Sequence[EncodedPrompt],
    params: SamplingParams,
    generator: torch.Generator,
    prefix: Prefix | None,
    kept: Kept | None,
) -> Iterator[dict[int, Completion]]:
    """Whenever completions are finished, these by number; completion i belongs to prompt i // group."""
    if prefix is None:
        prefix = run_prefix(vlm, prompts)
    kind = GraphDecoder if vlm.device.type == "cuda" else Decoder
    decoder = kind(decoder_weights(vlm), prefix, params.group, params.max_tokens, kept)
    total, device = len(decoder.live), vlm.device
    ids = torch.zeros(params.max_tokens, total, dtype=torch.int64, device=device)
    logprobs = torch.zeros(params.max_tokens, total, device=device)
    ends = torch.zeros(len(decoder.weights.head), dtype=torch.bool, device=device)  # (V,)
    ends[list(vlm.eos_ids)] = True
    over = torch.zeros(total, dtype=torch.bool, device=device)  # (n,) rows that have finished but not left
    waiting = 0  # how many those are
    every, seen = LOOK_EVERY.get(device.type, 1), 0  # steps whose tokens have been looked at
    logits = decoder.logits(prefix.hidden)[decoder.prompt]  # (n, V)
    for step in range(params.max_tokens):
        chosen, scores = _choose(logits, params.temperature, generator, decoder.live, total)
        ids[step, decoder.live], logprobs[step, decoder.live] = chosen, scores
        last = step + 1 == params.max_tokens
        if last or step + 1 - seen == every:
            _check(vlm, logprobs[seen : step + 1], seen)
            ending = ends[ids[seen : step + 1, decoder.live]]  # (steps, n)
            ended = ending.any(0) & ~over
            first, seen = seen, step + 1
            if ended.any():
                lengths = first + 1 + ending.byte().argmax(0)  # (n,)
                yield {
                    number: completion
                    for length in lengths[ended].unique().tolist()
                    for number, completion in _completions(
                        vlm, decoder.live[ended & (lengths == length)], ids[:length], logprobs[:length], "stop"
                    ).items()
                }
                over |= ended
                waiting = int(over.sum())
                if waiting == len(over):
                    return
            if last:
                yield _completions(vlm, decoder.live[~over], ids, logprobs, "length")
                return
            if waiting and waiting >= COMPACT_AT * len(over):
                stay = (~over).nonzero()[:, 0]
                decoder.keep(stay)
                chosen, over, waiting = chosen[stay], over[stay], 0
        logits = decoder.logits(decoder.step(chosen))


def _choose(
    logits: Tensor, temperature: float, generator: torch.Generator, live: Tensor, total: int
) -> tuple[Tensor, Tensor]:
    """The next token (n,) of every row and its logprob (n,), from logits (n, V) float32, which are overwritten.

    One number is drawn for every completion, finished or not, so that a completion's draws do not depend on when
    others leave the batch. It picks the token by the inverse of the cumulative distribution.
    """
    if temperature == 0:
        chosen = logits.argmax(dim=1, keepdim=True)  # (n, 1)
        shares = logits.softmax(dim=1)
    else:
        shares = (logits.div_(temperature) if temperature != 1.0 else logits).softmax(dim=1)  # (n, V)
        uniform = torch.rand(total, generator=generator, dtype=torch.float64, device=generator.device).to(live.device)
        chosen = _inverse(shares, uniform[live, None])  # (n, 1)
    return chosen[:, 0], shares.gather(1, chosen)[:, 0].log_()


def _check(vlm: VLM, logprobs: Tensor, seen: int) -> None:
    """InputError if the logprobs (steps, B * G) of the tokens after the first `seen` show logits without a number.

    One such logit makes all of a row's shares NaN, and with them the logprob of whatever was chosen.
    """
    if math.isnan(logprobs.sum().item()):
        bad = logprobs.isnan()
        step = seen + 1 + int(bad.any(1).byte().argmax())
        raise InputError(
            f"{vlm.name}: its logits are not finite at token {step} of {int(bad.any(0).sum())} completions, so that "
            "none can be drawn; its weights have probably diverged: go back to a checkpoint before this, or lower "
            "optimizer.lr"
        )


def _inverse(shares: Tensor, uniform: Tensor) -> Tensor:
    """The tokens (n, 1) at which the sums of shares (n, V) rise above uniform (n, 1), in [0, 1).

    Of a large vocabulary the blocks are summed first, and only one is looked at token by token. Where shares are NaN,
    which `_check` finds, it is the last token: an index beyond it would be an error that names nothing.
    """
    final = shares.shape[1] - 1
    if shares.shape[1] >= 2 * BLOCK**2:
        blocks = F.pad(shares, (0, -shares.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))  # (n, V / BLOCK, BLOCK)
        heights = blocks.sum(2, dtype=torch.float64).cumsum(1)  # (n, V / BLOCK)
        levels = uniform * (1 - 1e-12) * heights[:, -1:]
        block = torch.searchsorted(heights, levels, right=True).clamp_(max=heights.shape[1] - 1)  # (n, 1)
        below = F.pad(heights, (1, 0)).gather(1, block)
        inside = blocks.take_along_dim(block[..., None], 1)[:, 0].cumsum(1, dtype=torch.float64)  # (n, BLOCK)
        # Rounding must not lead beyond the block's last token that can be drawn.
        levels = torch.minimum(levels - below, inside[:, -1:] * (1 - 1e-12))
        return (block * BLOCK + torch.searchsorted(inside, levels, right=True)).clamp_(max=final)
    heights = shares.cumsum(1, dtype=torch.float64)  # (n, V)
    # Strictly below the last height, and to the right of equal ones: a token of probability 0 is never drawn.
    return torch.searchsorted(heights, uniform * (1 - 1e-12) * heights[:, -1:], right=True).clamp_(max=final)


def _completions(vlm: VLM, which: Tensor, ids: Tensor, logprobs: Tensor, finish: str) -> dict[int, Completion]:
    """The completions `which` (m,), all of length T, from ids and logprobs (T, B * G)."""
    completions = {}
    for index, tokens, scores in zip(
        which.tolist(), ids[:, which].T.tolist(), logprobs[:, which].T.tolist(), strict=True
    ):
        shown = tokens[:-1] if finish == "stop" else tokens
        text = vlm.tokenizer.decode(shown, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        completions[index] = Completion(tuple(tokens), tuple(scores), finish, text)
    return completions
