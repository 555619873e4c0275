"""Each function against a slow, obvious one: plain loops over lists, probabilities instead of their logarithms,
gradients by finite differences."""

import itertools
import math
import random
import statistics
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

from cleareyed.recipe import LossSpec
from cleareyed.training.losses import (
    Mismatch,
    add_mismatch,
    group_advantages,
    importance_weights,
    mismatch,
    mismatch_metrics,
    row_scales,
    token_losses,
)

Rows = list[list[float]]
KINDS = ("grpo", "dr-grpo", "rloo")
AGGREGATES = ("sequence", "token", "constant")
CLIPS: dict[str, dict[str, Any]] = {
    "symmetric": {"clip_low": 0.2, "clip_high": 0.2},
    "higher": {"clip_low": 0.1, "clip_high": 0.35},
    "two-sided": {"clip_low": 0.2, "clip_high": 0.2, "clip_ceiling": 1.5},
    "tight-ceiling": {"clip_low": 0.3, "clip_high": 0.25, "clip_ceiling": 1.25},
}
MAX_TOKENS, CAP, BETA = 6, 1.2, 0.3
LENGTHS = [5, 2, 4, 1, 3, 4, 2, 2, 5, 3, 1, 4]
KEPT = [True, True, True, True, False, True, True, True, False, True, True, True]
REWARDS: Rows = [[0.0, 1.0, 2.0, 1.5], [1.1, 1.1, 1.1, 1.1], [2.0, 0.0, 0.0, 1.3]]


def drawn(seed: int, near: Rows | None = None, drifts: tuple[float, ...] = (0.0,) * 12) -> Rows:
    """Ragged log-probabilities, at random, or about others: each completion drifts, and each token about that."""
    rng = random.Random(seed)
    if near is None:
        return [[-rng.uniform(0.5, 3.0) for _ in range(length)] for length in LENGTHS]
    return [[value + drift + rng.uniform(-0.4, 0.4) for value in row] for row, drift in zip(near, drifts, strict=True)]


OLD = drawn(1)
POLICY = drawn(2, OLD, (-0.6, 0.6, 0.7, -0.3, -0.6, 0.6, 0.0, 0.3, 0.05, 0.05, -0.7, 0.4))
REFERENCE, SAMPLED = drawn(3, OLD), drawn(4, OLD)


def padded(rows: Rows, padding: float = math.nan) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], dtype=torch.float64)


def mask_of(rows: Rows) -> Tensor:
    return torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows])[:, None]


def ragged(tensor: Tensor, rows: Rows) -> list[list[Any]]:
    assert not tensor[~mask_of(rows)].any()  # 0 or False on padding
    return [values[: len(row)] for values, row in zip(tensor.tolist(), rows, strict=True)]


def plain_advantages(rewards: Rows, kind: str) -> list[float]:
    found = []
    for group in rewards:
        for i, reward in enumerate(group):
            others = [r for j, r in enumerate(group) if j != i]
            centred = reward - statistics.mean(others if kind == "rloo" else group)
            found.append(centred / (statistics.stdev(group) + 1e-4) if kind == "grpo" else centred)
    return found


def plain_scale(n: int, aggregate: str, lengths: list[int], kept: list[bool]) -> float:
    if not kept[n]:
        return 0.0
    if aggregate == "sequence":
        return 1 / lengths[n] / sum(kept)
    if aggregate == "token":
        return 1 / sum(length for length, keep in zip(lengths, kept, strict=True) if keep)
    return 1 / (sum(kept) * MAX_TOKENS)


def plain_surrogate(ratio: float, advantage: float, spec: LossSpec) -> float:
    clipped = min(max(ratio, 1 - spec.clip_low), 1 + spec.clip_high)
    capped = ratio if spec.clip_ceiling is None else min(ratio, spec.clip_ceiling)
    return min(capped * advantage, clipped * advantage)


def plain_ratio(row: list[float], old: list[float], t: int, kind: str) -> float:
    ratios = [math.exp(p) / math.exp(q) for p, q in zip(row, old, strict=True)]
    return ratios[t] if kind == "token" else math.prod(ratios) ** (1 / len(ratios))


def plain_kl(policy: float, reference: float, kind: str) -> float:
    ratio = math.exp(reference) / math.exp(policy)
    return {"k1": -math.log(ratio), "k2": math.log(ratio) ** 2 / 2, "k3": ratio - 1 - math.log(ratio)}[kind]


def plain_row(
    row: list[float], n: int, advantage: float, spec: LossSpec, with_kl: bool, weights: Rows | None
) -> list[float]:
    """The loss of each token of completion n, were its log-probabilities `row`."""
    losses = []
    for t, logprob in enumerate(row):
        gain = plain_surrogate(plain_ratio(row, OLD[n], t, spec.ratio), advantage, spec)
        gain *= weights[n][t] if weights else 1.0
        losses.append(-gain + (BETA * plain_kl(logprob, REFERENCE[n][t], spec.kl) if with_kl else 0.0))
    return losses


def moved(row: list[float], t: int, by: float) -> list[float]:
    return [value + by * (i == t) for i, value in enumerate(row)]


@pytest.mark.parametrize("kind", KINDS)
def test_advantages(kind: Any) -> None:
    found = group_advantages(torch.tensor(REWARDS, dtype=torch.float64), kind)
    assert found.shape == (3, 4) and found.dtype == torch.float64
    assert found.flatten().tolist() == pytest.approx(plain_advantages(REWARDS, kind), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_without_signal_is_exactly_zero(kind: Any) -> None:
    totals = torch.tensor([[0.1] * 7, [0.1 + 0.2] * 7, [1e9 + 0.1] * 7, [0.0] * 6 + [1e-9]], dtype=torch.float64)
    found = group_advantages(totals, kind)
    assert not found[:3].any() and found[3].all()


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("kept", [KEPT, [True] * 12, [False] * 12])
def test_scales(aggregate: Any, kept: list[bool]) -> None:
    found = row_scales(torch.tensor(LENGTHS), torch.tensor(kept), aggregate, MAX_TOKENS)
    expected = [plain_scale(n, aggregate, LENGTHS, kept) for n in range(12)]
    assert found.tolist() == pytest.approx(expected, rel=1e-14, abs=0)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_of_a_later_update(kind: Any, aggregate: Any, ratio: Any, clip: str) -> None:
    mask = mask_of(POLICY)
    advantages = group_advantages(torch.tensor(REWARDS, dtype=torch.float64), kind).flatten()
    scales = row_scales(torch.tensor(LENGTHS), torch.tensor(KEPT), aggregate, MAX_TOKENS)
    plain = plain_advantages(REWARDS, kind)
    for kl, weighted in itertools.product(("k1", "k2", "k3", None), (False, True)):
        spec = LossSpec(advantage=kind, aggregate=aggregate, ratio=ratio, kl=kl or "k3", **CLIPS[clip])
        policy = padded(POLICY).requires_grad_()
        found = token_losses(
            policy,
            padded(OLD),
            padded(REFERENCE) if kl else None,
            advantages,
            mask,
            spec,
            BETA,
            importance_weights(padded(OLD), padded(SAMPLED), mask, CAP) if weighted else None,
        )
        loss = (scales[:, None] * found.losses).sum()
        loss.backward()
        assert policy.grad is not None and not found.kl.requires_grad

        weights = [
            [min(CAP, math.exp(p) / math.exp(q)) for p, q in zip(*rows, strict=True)]
            for rows in zip(OLD, SAMPLED, strict=True)
        ]
        arguments = (spec, kl is not None, weights if weighted else None)
        total, gradient, clipped = 0.0, [], []
        for n, row in enumerate(POLICY):
            scale, step = plain_scale(n, aggregate, LENGTHS, KEPT), 1e-5
            losses = plain_row(row, n, plain[n], *arguments)
            assert ragged(found.losses, POLICY)[n] == pytest.approx(losses, abs=1e-12)
            total += scale * sum(losses)
            ends = [
                [plain_row(moved(row, t, h), n, plain[n], *arguments) for h in (step, -step)] for t in range(len(row))
            ]
            gradient.append([scale * (sum(up) - sum(down)) / (2 * step) for up, down in ends])
            ratios = [plain_ratio(row, OLD[n], t, ratio) for t in range(len(row))]
            clipped.append(
                [
                    plain[n] != 0
                    and plain_surrogate(r - 1e-6, plain[n], spec) == plain_surrogate(r + 1e-6, plain[n], spec)
                    for r in ratios
                ]
            )
        assert loss.item() == pytest.approx(total, abs=1e-12)
        for got, expected in zip(ragged(policy.grad, POLICY), gradient, strict=True):
            assert got == pytest.approx(expected, abs=1e-8)
        assert ragged(found.clipped, POLICY) == clipped
        divergence = [
            [plain_kl(p, q, kl) if kl else 0.0 for p, q in zip(*rows, strict=True)]
            for rows in zip(POLICY, REFERENCE, strict=True)
        ]
        for got, expected in zip(ragged(found.kl, POLICY), divergence, strict=True):
            assert got == pytest.approx(expected, abs=1e-12)


def test_the_cases_above_clip_some_tokens_and_spare_others() -> None:
    for ratio, clip in itertools.product(("token", "sequence"), CLIPS):
        spec = LossSpec(ratio=ratio, **CLIPS[clip])  # type: ignore[arg-type]
        advantages = torch.tensor(plain_advantages(REWARDS, "grpo"), dtype=torch.float64)
        found = token_losses(padded(POLICY), padded(OLD), None, advantages, mask_of(OLD), spec, 0.0)
        for sign in (1, -1):
            rows = advantages.sign() == sign
            share = found.clipped[rows].sum() / mask_of(OLD)[rows].sum()
            assert 0 < share < 1, (ratio, clip, sign)


@pytest.mark.parametrize(
    ("advantage", "ratio", "ceiling", "clipped"),
    [
        (1.0, 1.3, None, True),
        (1.0, 0.5, None, False),
        (-1.0, 0.5, None, True),
        (-1.0, 9.0, None, False),
        (-1.0, 9.0, 4.0, True),
        (0.0, 9.0, 4.0, False),
    ],
)
def test_a_clipped_token_has_no_gradient_and_others_their_ratio(
    advantage: float, ratio: float, ceiling: float | None, clipped: bool
) -> None:
    policy = torch.tensor([[math.log(ratio) - 3, -3.0]], dtype=torch.float64, requires_grad=True)
    old, mask = torch.full((1, 2), -3.0, dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool)
    spec = LossSpec(clip_ceiling=ceiling)
    found = token_losses(policy, old, None, torch.tensor([advantage], dtype=torch.float64), mask, spec, 0.0)
    found.losses.sum().backward()
    assert policy.grad is not None and found.clipped.tolist() == [[clipped, False]]
    if clipped:
        assert policy.grad[0, 0] == 0  # exactly
    else:
        assert policy.grad[0, 0].item() == pytest.approx(-advantage * ratio)
    assert policy.grad[0, 1].item() == pytest.approx(-advantage)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("clip_high", [0.2, 0.0])
def test_the_first_update_has_the_plain_policy_gradient(ratio: Any, clip_high: float) -> None:
    """Loss -A for each token; gradient -A times its weight, the sequence's ratio spreading over its tokens evenly."""
    policy, mask = padded(POLICY).requires_grad_(), mask_of(POLICY)
    advantages = torch.linspace(-1.5, 2, 12, dtype=torch.float64)  # (N,)
    spec = LossSpec(ratio=ratio, clip_low=clip_high, clip_high=clip_high)
    found = token_losses(policy, policy.detach(), None, advantages, mask, spec, 0.0)
    scales = row_scales(torch.tensor(LENGTHS), torch.ones(12, dtype=torch.bool), "sequence", MAX_TOKENS)
    (scales[:, None] * found.losses).sum().backward()
    expected = torch.where(mask, -advantages[:, None], 0.0)
    torch.testing.assert_close(found.losses, expected, rtol=0, atol=0)
    torch.testing.assert_close(policy.grad, expected * scales[:, None], rtol=1e-14, atol=0)
    assert not found.clipped.any()


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_micro_batches_sum_to_the_same_loss_and_gradient(aggregate: Any, ratio: Any) -> None:
    spec = LossSpec(aggregate=aggregate, ratio=ratio)
    advantages = torch.tensor(plain_advantages(REWARDS, "grpo"), dtype=torch.float64)
    scales = row_scales(torch.tensor(LENGTHS), torch.tensor(KEPT), aggregate, MAX_TOKENS)
    found = []
    for pieces in (1, 2, 4):
        policy, loss = padded(POLICY).requires_grad_(), 0.0
        for rows in torch.arange(12).chunk(pieces):
            longest = max(LENGTHS[n] for n in rows)  # padding is trimmed by micro-batch
            trim = slice(None, longest)
            old, reference, mask = padded(OLD)[rows, trim], padded(REFERENCE)[rows, trim], mask_of(OLD)[rows, trim]
            weights = importance_weights(old, padded(SAMPLED)[rows, trim], mask, CAP)
            part = token_losses(policy[rows, trim], old, reference, advantages[rows], mask, spec, BETA, weights)
            share = (scales[rows, None] * part.losses).sum()
            share.backward()  # type: ignore[no-untyped-call]
            loss += share.item()
        assert policy.grad is not None
        found.append((loss, policy.grad))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-12)
        torch.testing.assert_close(gradient, found[0][1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("padding", [-math.inf, math.inf, math.nan])
def test_padding_that_is_not_finite_stays_out(ratio: Any, padding: float) -> None:
    def with_padding(values: list[float]) -> Tensor:
        return torch.tensor([[*values, padding], [padding] * 3])  # the second row is padding throughout

    mask = torch.tensor([[True, True, False], [False] * 3])
    policy, old = with_padding([-1.0, -2.0]).requires_grad_(), with_padding([-1.1, -1.9])
    weights = importance_weights(old, with_padding([-1.2, -1.8]), mask, 2.0)
    found = token_losses(
        policy, old, with_padding([-1.5, -1.5]), torch.ones(2), mask, LossSpec(ratio=ratio), 0.1, weights
    )
    found.losses.sum().backward()
    assert policy.grad is not None
    for tensor in (found.losses, found.kl, policy.grad):
        assert tensor.isfinite().all() and not tensor[~mask].any() and tensor[mask].all()
    assert weights.isfinite().all()


@pytest.mark.parametrize(
    ("advantage", "ceiling", "loss"), [(2.0, None, -2.4), (2.0, 4.0, -2.4), (0.0, None, 0.0), (-1.0, 4.0, 4.0)]
)
def test_a_ratio_beyond_all_floats_is_clipped_without_nan(
    advantage: float, ceiling: float | None, loss: float
) -> None:
    policy, old = torch.tensor([[-1.0]], requires_grad=True), torch.tensor([[-200.0]])
    mask, spec = torch.ones(1, 1, dtype=torch.bool), LossSpec(clip_ceiling=ceiling)
    found = token_losses(policy, old, None, torch.tensor([advantage]), mask, spec, 0.0)
    found.losses.sum().backward()
    assert found.losses.item() == pytest.approx(loss)
    assert policy.grad is not None and policy.grad.item() == 0.0


def test_a_logprob_that_is_not_a_number_is_not_hidden() -> None:
    policy = torch.tensor([[math.nan, -1.0]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = token_losses(policy, policy.detach(), None, torch.ones(1), mask, LossSpec(), 0.0)
    assert found.losses.isnan().tolist() == [[True, False]]


def test_k3_of_close_policies_is_precise_in_single_precision() -> None:
    mask, zeros = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1)
    found = token_losses(torch.full((1, 1), -1e-3), zeros[None], zeros[None], zeros, mask, LossSpec(), 1.0)
    assert found.kl.item() == pytest.approx(math.expm1(1e-3) - 1e-3, rel=2e-3)  # exp(d) - 1 - d would be 10 % off


def test_importance_weights_are_capped_and_have_no_graph() -> None:
    policy = torch.tensor([[-1.0, -3.0, -1.0], [-2.0, -0.1, -9.0]], requires_grad=True)
    sampled = torch.tensor([[-1.5, -2.0, -1.0], [-90.0, -0.1, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    found = importance_weights(policy, sampled, mask, 1.2)
    assert not found.requires_grad
    assert found[mask].tolist() == pytest.approx([1.2, math.exp(-1), 1.0, 1.2, 1.0])


def plain_mismatch(policy: Rows, sampled: Rows) -> dict[str, float]:
    ratios = [
        [math.exp(p) / math.exp(q) for p, q in zip(*rows, strict=True)] for rows in zip(policy, sampled, strict=True)
    ]
    tokens = [ratio for row in ratios for ratio in row]
    weights = [math.prod(row) for row in ratios]
    return {
        "mismatch/kl": statistics.mean(ratio - 1 - math.log(ratio) for ratio in tokens),
        "mismatch/largest_ratio": max(max(ratio, 1 / ratio) for ratio in tokens),
        "mismatch/largest_gap": max(abs(math.log(ratio)) for ratio in tokens),
        "mismatch/ess": sum(weights) ** 2 / sum(weight**2 for weight in weights) / len(weights),
    }


@pytest.mark.parametrize(("policy", "sampled"), [(POLICY, SAMPLED), (SAMPLED, POLICY)])
@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_mismatch_over_micro_batches(pieces: int, policy: Rows, sampled: Rows) -> None:
    total, mask = Mismatch(), mask_of(policy)
    for rows in torch.arange(12).chunk(pieces):
        total = add_mismatch(total, mismatch(padded(policy)[rows], padded(sampled)[rows], mask[rows]))
    assert (total.tokens, total.completions) == (sum(LENGTHS), 12)
    assert mismatch_metrics(total) == pytest.approx(plain_mismatch(policy, sampled), rel=1e-12)


def test_without_mismatch_all_completions_count() -> None:
    metrics = mismatch_metrics(mismatch(padded(POLICY), padded(POLICY), mask_of(POLICY)))
    assert metrics == {
        "mismatch/kl": 0.0,
        "mismatch/largest_ratio": 1.0,
        "mismatch/largest_gap": 0.0,
        "mismatch/ess": pytest.approx(1.0),
    }


def test_kl_is_that_of_the_policy_from_the_sampler() -> None:
    """Tokens in the numbers in which the sampler draws them: the mean is KL(sampler || policy), not its reverse."""
    counts, policy = [50, 30, 20], [0.2, 0.2, 0.6]
    sampled = torch.tensor([math.log(count / 100) for count in counts for _ in range(count)])[:, None]
    trained = torch.tensor([math.log(p) for p, count in zip(policy, counts, strict=True) for _ in range(count)])[
        :, None
    ]
    found = mismatch_metrics(mismatch(trained, sampled, torch.ones(100, 1, dtype=torch.bool)))
    expected = sum(c / 100 * math.log(c / 100 / p) for c, p in zip(counts, policy, strict=True))
    assert found["mismatch/kl"] == pytest.approx(expected, rel=1e-5)


def test_the_effective_sample_size_of_long_completions_is_finite() -> None:
    """Weights exp(+-2000): two equal heavy ones among four make half of them count, one alone a quarter."""
    mask = torch.ones(4, 1000, dtype=torch.bool)
    for gaps, share in (((2.0, 2.0, -2.0, -2.0), 0.5), ((2.0, -2.0, -2.0, -2.0), 0.25), ((-2.0,) * 4, 1.0)):
        policy = torch.tensor(gaps)[:, None] * mask
        whole = mismatch(policy, torch.zeros(4, 1000), mask)
        halves = [mismatch(part, torch.zeros(2, 1000), mask[:2]) for part in policy.chunk(2)]
        assert mismatch_metrics(whole)["mismatch/ess"] == pytest.approx(share)
        assert mismatch_metrics(add_mismatch(*halves))["mismatch/ess"] == pytest.approx(share)


def test_rows_without_tokens_do_not_count() -> None:
    mask = torch.tensor([[True], [False]])
    found = mismatch(torch.tensor([[-1.0], [math.nan]]), torch.tensor([[-1.5], [-1.0]]), mask)
    assert (found.tokens, found.completions) == (1, 1)
    assert asdict(mismatch(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool))) == asdict(
        Mismatch()
    )
    assert mismatch_metrics(Mismatch()) == {}
