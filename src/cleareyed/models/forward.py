"""The forward that shares prompts: every image is encoded once, every prompt is run once.

The completions of a prompt continue its key-value cache, in sampling and in training alike; in training the gradients
flow back through the cache into the prompt and its images, so that the result is that of running each
prompt-completion pair by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from cleareyed.errors import InputError
from cleareyed.models import fused
from cleareyed.models.attention import attend, attend_behind, lay_out
from cleareyed.models.flash import attend_packed, pack
from cleareyed.models.fused import plain
from cleareyed.models.kept import Replayed
from cleareyed.models.layers import chosen_logprobs, run_layers
from cleareyed.models.replay import replay
from cleareyed.models.tower import own_blocks
from cleareyed.models.vlm import VLM, EncodedPrompt

CHUNK_FLOATS = 2**25
"""Most logits held at once: this many float32 numbers, 128 MB."""


Features = Mapping[int, Tensor]
"""Of the images of each prompt, by the id of its `pixels`: (image tokens, D)."""


@dataclass(frozen=True)
class Prefix:
    """What the model knows after reading a batch of prompts; with a graph where gradients were on."""

    keys: tuple[Tensor, ...]  # by layer (B, key-value heads, P, head size), rotated
    values: tuple[Tensor, ...]  # by layer (B, key-value heads, P, head size)
    hidden: Tensor  # (B, D) last hidden state at the last prompt token, which predicts the first completion token
    ids: Tensor  # (B, P) int64, prompts padded on the right
    mask: Tensor  # (B, P) bool: not padding
    next_positions: Tensor  # (B,) int64: the position of the first completion token


def precision(vlm: VLM) -> torch.autocast:
    """bf16 autocast where the model asks for it."""
    return torch.autocast(vlm.device.type, torch.bfloat16, enabled=vlm.autocast)


def run_prefix(vlm: VLM, prompts: Sequence[EncodedPrompt], features: Features | None = None) -> Prefix:
    """Run the vision tower once over the distinct images and the language model once over the prompts.

    Prompts that hold the same `pixels` tensor share one run of the vision tower; with `features`, it is not run at
    all. Takes B prompts of up to P tokens; builds a graph where gradients are on and there are parameters to train.

    Raises:
        InputError: a prompt whose image tokens are not as many as its images' features.
    """
    with precision(vlm):
        embeds, positions, ids, mask = _embedded(vlm, prompts, features)
        language = vlm.model.model.language_model
        hidden, keys, values = run_layers(language, embeds, positions, attend, mask)
    following = torch.tensor([prompt.next_position for prompt in prompts], device=vlm.device)
    return Prefix(keys, values, hidden, ids, mask, following)


def prompt_states(vlm: VLM, prompts: Sequence[EncodedPrompt]) -> tuple[Tensor, Tensor, Tensor]:
    """The last hidden states (B, P, D) of all tokens, after the final norm; ids and mask (B, P) as in `Prefix`.

    For what learns the prompts' own tokens; raises what `run_prefix` does.
    """
    with precision(vlm):
        embeds, positions, ids, mask = _embedded(vlm, prompts, None)
        return run_layers(vlm.model.model.language_model, embeds, positions, attend)[0], ids, mask


def _embedded(
    vlm: VLM, prompts: Sequence[EncodedPrompt], features: Features | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings (B, P, D), positions (3, B, P), ids and mask (B, P): padding is on the right, where causality alone
    hides it from every real token."""
    device, length = vlm.device, max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), length, dtype=torch.int64)
    positions = torch.zeros(3, len(prompts), length, dtype=torch.int64)
    mask = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        size = len(prompt.ids)
        ids[row, :size], positions[:, row, :size], mask[row, :size] = prompt.ids, prompt.positions, True
    ids, positions, mask = ids.to(device), positions.to(device), mask.to(device)

    embeds = vlm.model.get_input_embeddings()(ids)  # (B, P, D)
    if features is None:
        features = image_features(vlm, prompts)
    _check_features(vlm, prompts, features)
    seen = [features[id(prompt.pixels)] for prompt in prompts if prompt.pixels is not None]
    if seen:
        places = ((ids == vlm.image_token_id) & mask)[..., None]  # (B, P, 1)
        embeds = embeds.masked_scatter(places, torch.cat(seen).to(embeds.dtype))
    return embeds, positions, ids, mask


@torch.no_grad()
def extend_prefix(vlm: VLM, prefix: Prefix, rows: Tensor, ids: Tensor, mask: Tensor) -> Prefix:
    """The prefix of N prompts, each a prompt of `prefix` with given tokens behind it, all of which go through at once.

    rows (N,) int64: which prompt each begins with; ids (N, T) int64: tokens behind it, padded on the right with any
    valid id; mask (N, T) bool: not padding. What is sampled from the result continues those tokens as if they had
    been drawn. Without a graph.
    """
    states, new_keys, new_values = _run_behind(vlm, prefix, rows, ids)
    states = torch.cat([prefix.hidden[rows, None], states], dim=1)  # (N, 1 + T, D)
    held = torch.cat([prefix.mask[rows], mask], dim=1)  # (N, P + T)
    # The padding between a prompt and its tokens goes to the end.
    order = (~held).byte().argsort(dim=1, stable=True)[:, : int(held.sum(1).max())]  # (N, L)

    def taken(past: Tensor, new: Tensor) -> Tensor:
        return torch.cat([past.index_select(0, rows), new], dim=2).take_along_dim(order[:, None, :, None], dim=2)

    return Prefix(
        keys=tuple(map(taken, prefix.keys, new_keys)),
        values=tuple(map(taken, prefix.values, new_values)),
        hidden=states[torch.arange(len(rows), device=rows.device), mask.sum(1)],
        ids=torch.cat([prefix.ids[rows], ids], dim=1).take_along_dim(order, dim=1),
        mask=held.take_along_dim(order, dim=1),
        next_positions=prefix.next_positions[rows] + mask.sum(1),
    )


def cut(prefix: Prefix) -> Prefix:
    """The same values as leaves of their own, where the gradients of completions gather.

    The completions of a batch of prompts may go through in several forwards and backwards behind the leaves; the
    prompts' own graph is kept until `join` sends what has gathered through it, once.
    """

    def leaf(part: Tensor) -> Tensor:
        return part.detach().requires_grad_(part.requires_grad)

    return replace(
        prefix,
        keys=tuple(map(leaf, prefix.keys)),
        values=tuple(map(leaf, prefix.values)),
        hidden=leaf(prefix.hidden),
    )


def join(prefix: Prefix, leaves: Prefix) -> None:
    """The second stage of the backward pass: the gradients of `leaves`, from `cut`, through the graph of `prefix`."""
    pairs = zip(
        (*prefix.keys, *prefix.values, prefix.hidden), (*leaves.keys, *leaves.values, leaves.hidden), strict=True
    )
    reached = [(part, leaf.grad) for part, leaf in pairs if leaf.grad is not None]
    if reached:
        torch.autograd.backward([part for part, _ in reached], [grad for _, grad in reached])


def continuation_logprobs(
    vlm: VLM,
    prefix: Prefix,
    rows: Tensor,
    ids: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    chunk_floats: int = CHUNK_FLOATS,
    replayed: Replayed | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of N completions of up to T tokens, each continuing one prompt of `prefix`.

    rows (N,) int64: which prompt each continues; ids (N, T) int64: completions padded on the right with any valid id;
    mask (N, T) bool: not padding. Returns logprobs and entropy, both (N, T) float32 in nats, 0 on padding, the
    entropy without a graph. Temperature and banned tokens are treated as in sampling. The completions go through the
    model as one row without padding (on a GPU in float32: padded). With more than `chunk_floats` logits they are
    computed in pieces, and again in the backward pass. With `replayed` the layers are not run: sampling did, with the
    weights that the model still has.
    """
    first = prefix.hidden.index_select(0, rows)  # (N, D): predicts the first tokens
    fed = mask[:, 1:]  # (N, T - 1): every token but a completion's last is fed, and predicts the next
    states = first
    if fed.any():
        run = _packed_states if ids.device.type == "cpu" or vlm.autocast else _padded_states
        if replayed is not None:
            run = partial(_replayed_states, replayed)
        states = torch.cat([first, run(vlm, prefix, rows, ids[:, :-1], fed)])  # (N + M, D)
    places = torch.arange(ids.numel(), device=ids.device).view(ids.shape)  # (N, T)
    places = torch.cat([places[:, 0], places[:, 1:][fed]])  # (N + M,)
    logprobs, entropy = _token_logprobs(vlm, states, ids.flatten()[places], temperature, chunk_floats)
    empty = torch.zeros(ids.numel(), device=ids.device)
    return empty.scatter(0, places, logprobs).view(ids.shape), empty.scatter(0, places, entropy).view(ids.shape)


def _packed_states(vlm: VLM, prefix: Prefix, rows: Tensor, ids: Tensor, fed: Tensor) -> Tensor:
    """States (M, D) after each of the M tokens `fed` (N, T) of `ids`, which stand in one row without padding."""
    layout = _packed_layout(prefix, rows, fed)
    if ids.device.type == "cpu":
        attention = partial(attend_behind, lay_out(*layout))
    else:
        attention = partial(attend_packed, pack(*layout))
    with precision(vlm):
        embeds = vlm.model.get_input_embeddings()(ids[fed])[None]  # (1, M, D)
        positions = _packed_positions(prefix, rows, fed).expand(3, 1, -1)
        return run_layers(vlm.model.model.language_model, embeds, positions, attention)[0][0]


def _replayed_states(replayed: Replayed, vlm: VLM, prefix: Prefix, rows: Tensor, ids: Tensor, fed: Tensor) -> Tensor:
    """The same as sampling has left them."""
    behind, places = lay_out(*_packed_layout(prefix, rows, fed)), replayed.rows(fed)
    embeds = vlm.model.get_input_embeddings()(ids[fed])  # (M, D)
    positions = _packed_positions(prefix, rows, fed)
    return replay(vlm.model.model.language_model, embeds, positions, behind, replayed.kept, places)


def _packed_layout(
    prefix: Prefix, rows: Tensor, fed: Tensor
) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor, Tensor, Tensor]:
    """What `lay_out` and `pack` take: of the prompts that these completions stand behind, no others."""
    used, places = torch.unique(rows, return_inverse=True)
    keys, values = prefix.keys, prefix.values
    if len(used) < len(prefix.mask):
        keys, values = (tuple(part.index_select(0, used) for part in parts) for parts in (keys, values))
    return keys, values, prefix.mask[used], places, fed.sum(1)


def _packed_positions(prefix: Prefix, rows: Tensor, fed: Tensor) -> Tensor:
    """The positions (M,) of the tokens `fed` (N, T)."""
    return (prefix.next_positions[rows, None] + torch.arange(fed.shape[1], device=fed.device))[fed]


def _padded_states(vlm: VLM, prefix: Prefix, rows: Tensor, ids: Tensor, fed: Tensor) -> Tensor:
    """The same with a row for each completion and a copy of its prompt's keys and values."""
    return _run_behind(vlm, prefix, rows, ids)[0][fed]


def _run_behind(
    vlm: VLM, prefix: Prefix, rows: Tensor, ids: Tensor
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """States (N, T, D) after each of `ids` (N, T), padded on the right, behind the prompts `rows` (N,).

    By layer their keys and values (N, key-value heads, T, head size) as well.
    """
    count, length = ids.shape
    steps = torch.arange(length, device=ids.device)
    positions = (prefix.next_positions[rows, None] + steps).expand(3, count, length)
    seen = torch.cat(
        [
            prefix.mask[rows, None].expand(count, length, -1),
            (steps <= steps[:, None]).expand(count, length, length),
        ],
        dim=2,
    )[:, None]  # (N, 1, T, P + T)

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        before = (part[module.layer_idx].index_select(0, rows) for part in (prefix.keys, prefix.values))
        key, value = (torch.cat([old, new], dim=2) for old, new in zip(before, (key, value), strict=True))
        return attend(module, query, key, value, seen)

    with precision(vlm):
        embeds = vlm.model.get_input_embeddings()(ids)
        return run_layers(vlm.model.model.language_model, embeds, positions, attention)


def plain_logprobs(vlm: VLM, prompt: EncodedPrompt, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (T,) of one completion through transformers' own whole forward, which shares nothing.

    The slow road that the shared forward must agree with; on a GPU too its convolution is in float32, not in TF32.
    """
    tokens = torch.cat([prompt.ids.to(vlm.device), ids.to(vlm.device)])[None]  # (1, P + T)
    images: dict[str, Tensor] = {}
    if prompt.pixels is not None and prompt.grid is not None:
        images = {
            "pixel_values": prompt.pixels.to(vlm.device),
            "image_grid_thw": prompt.grid.to(vlm.device),
            "mm_token_type_ids": (tokens == vlm.image_token_id).int(),
        }
    cudnn = torch.backends.cudnn
    kept = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    with precision(vlm), cudnn.flags(**kept, allow_tf32=False):
        logits = vlm.model(input_ids=tokens, use_cache=False, **images).logits[0, len(prompt.ids) - 1 : -1]
    logprobs = _log_softmax(vlm, logits, temperature)
    return logprobs.gather(1, tokens[0, len(prompt.ids) :, None])[:, 0]


def next_logprobs(vlm: VLM, states: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (M, V) float32 of the next token after hidden states (M, D); banned tokens get -inf."""
    head: nn.Linear = vlm.model.lm_head
    with precision(vlm):
        logits = head(states)
    return _log_softmax(vlm, logits, temperature)


def image_features(vlm: VLM, prompts: Sequence[EncodedPrompt]) -> Features:
    """Run the vision tower over the distinct images of the prompts.

    Builds a graph where gradients are on and the tower has parameters to train. Where it has none, the features
    hold for every later forward, of the policy and of a reference alike.
    """
    distinct: dict[int, EncodedPrompt] = {}
    for prompt in prompts:
        if prompt.pixels is not None:
            distinct.setdefault(id(prompt.pixels), prompt)
    if not distinct:
        return {}
    pixels = torch.cat([prompt.pixels.to(vlm.device) for prompt in distinct.values() if prompt.pixels is not None])
    grids = [prompt.grid for prompt in distinct.values() if prompt.grid is not None]
    with (
        torch.set_grad_enabled(torch.is_grad_enabled() and trains_vision(vlm)),
        precision(vlm),
        own_blocks(vlm, torch.cat(grids)),
    ):
        model: Any = vlm.model
        images = model.get_image_features(pixels, torch.cat(grids).to(vlm.device), return_dict=True).pooler_output
    pieces = iter(images)
    return {key: torch.cat([next(pieces) for _ in grid]) for key, grid in zip(distinct, grids, strict=True)}


def trains_vision(vlm: VLM) -> bool:
    return any(parameter.requires_grad for parameter in vlm.model.model.visual.parameters())


def _check_features(vlm: VLM, prompts: Sequence[EncodedPrompt], features: Features) -> None:
    for number, prompt in enumerate(prompts):
        tokens = int((prompt.ids == vlm.image_token_id).sum())
        found = 0 if prompt.pixels is None else len(features[id(prompt.pixels)])
        if tokens != found:
            raise InputError(
                f"prompt {number + 1} of {len(prompts)}: {tokens} image tokens, but its images make {found} features; "
                "encode text and images together, with the model that reads them"
            )


def _token_logprobs(
    vlm: VLM, states: Tensor, ids: Tensor, temperature: float, chunk_floats: int
) -> tuple[Tensor, Tensor]:
    """states (M, D), ids (M,) -> logprobs (M,) and entropy (M,), with a bounded number of logits at a time.

    On a GPU under bf16 autocast those of a micro-batch are kept.
    """
    head: Any = vlm.model.lm_head
    bare = plain(head) and head.bias is None
    with precision(vlm):
        if fused.wanted(states.device) and bare:
            banned = torch.zeros(len(head.weight), dtype=torch.bool, device=states.device)
            banned[list(vlm.banned_ids)] = True
            return fused.chosen_logprobs(states, head.weight, ids, banned, temperature)

    def some(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        if bare and not vlm.autocast:
            return chosen_logprobs(states, head.weight, ids, _banned(vlm), temperature)
        logprobs = next_logprobs(vlm, states, temperature)  # (m, V)
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs.masked_fill(logprobs.isneginf(), 0.0)).sum(1)
        return logprobs.gather(1, ids[:, None])[:, 0], entropy

    size = max(1, chunk_floats // vlm.model.config.get_text_config().vocab_size)
    if len(ids) <= size:
        return some(states, ids)
    pieces = []
    for chunk, targets in zip(states.split(size), ids.split(size), strict=True):
        if torch.is_grad_enabled():
            pieces.append(checkpoint(some, chunk, targets, use_reentrant=False))
        else:
            pieces.append(some(chunk, targets))
    return torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces])


def _log_softmax(vlm: VLM, logits: Tensor, temperature: float) -> Tensor:
    logits = logits.float().index_fill(1, _banned(vlm), -torch.inf)
    return torch.log_softmax(logits / temperature if temperature != 1.0 else logits, dim=1)


def _banned(vlm: VLM) -> Tensor:
    return torch.tensor(vlm.banned_ids, device=vlm.device, dtype=torch.int64)


def checkpoint_blocks(model: Any, which: bool | str = True) -> None:
    """Ask for gradient checkpointing: the forwards of this module keep only the inputs of each block for the backward.

    Nothing is asked if `which` is False, the vision tower's blocks alone if it is `vision`. The library's own switch
    is not used: it drops the cache that completions continue.
    """
    if not which:
        return
    for module in (model.model.visual if which == "vision" else model).modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.gradient_checkpointing = True
