"""The rollouts of a GRPO step: judged, put into rows, and summed up as metrics."""

from collections.abc import Sequence

import torch

from cleareyed.models.vlm import Completion
from cleareyed.records.rows import RolloutRow
from cleareyed.scoring.rewards import RewardFunction, Scored, score
from cleareyed.scoring.rules import accuracy_rule, well_formed
from cleareyed.tasks.task import Sample

Groups = Sequence[Sequence[Completion]]
"""B groups of G completions."""


def score_groups(
    rewards: Sequence[RewardFunction],
    rule: str,
    samples: Sequence[Sample],
    prompts: Sequence[str],
    groups: Groups,
    opens: str,
) -> Scored:
    """Judge all B * G completions, in order of group and index; `opens` is put back in front of each."""
    each = [(b, completion) for b, group in enumerate(groups) for completion in group]
    return score(
        rewards,
        accuracy_rule(rule),
        [samples[b] for b, _ in each],
        [prompts[b] for b, _ in each],
        [opens + completion.text for _, completion in each],
        [completion.ids for _, completion in each],
    )


def rollout_rows(
    step: int, samples: Sequence[Sample], groups: Groups, scored: Scored, advantages: torch.Tensor, opens: str
) -> list[RolloutRow]:
    """One row for each of the B * G completions; `advantages` is (B, G)."""
    rows = []
    for b, (sample, group) in enumerate(zip(samples, groups, strict=True)):
        for index, completion in enumerate(group):
            i = b * len(group) + index
            rows.append(
                RolloutRow(
                    step=step,
                    sample_id=sample.id,
                    group=b,
                    index=index,
                    question=sample.question,
                    answer=sample.answer,
                    completion=opens + completion.text,
                    tokens=len(completion.ids),
                    finish=completion.finish,
                    rewards=dict(scored.rewards[i]),
                    reward=scored.totals[i],
                    advantage=advantages[b, index].item(),
                    extracted=scored.verdicts[i].extracted,
                    correct=scored.verdicts[i].correct,
                )
            )
    return rows


def rollout_metrics(
    groups: Groups, scored: Scored, totals: torch.Tensor, advantages: torch.Tensor, opens: str
) -> dict[str, float]:
    """Rewards, rightness, form and length over the B * G completions of a step.

    `totals` and `advantages` are (B, G). `reward_std` is the mean over groups of the sample standard deviation,
    lengths are in tokens with the ending one, `reward/NAME` is unweighted and over the completions it applies to,
    `entropy_sampled` is the mean of -logp over all sampled tokens (nats).
    """
    completions = [completion for group in groups for completion in group]
    count = len(completions)
    lengths = torch.tensor([len(completion.ids) for completion in completions], dtype=torch.float64)
    low, high = torch.quantile(lengths, torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
    metrics = {"reward": totals.mean().item()}
    for name in scored.rewards[0]:
        values = [value for rewards in scored.rewards if (value := rewards[name]) is not None]
        if values:
            metrics[f"reward/{name}"] = sum(values) / len(values)
    return {
        **metrics,
        "reward_std": totals.std(dim=1).mean().item(),
        "share_without_signal": 1 - advantages.any(dim=1).double().mean().item(),
        "accuracy": sum(verdict.correct for verdict in scored.verdicts) / count,
        "format_rate": sum(well_formed(opens + completion.text) for completion in completions) / count,
        "completion_tokens": lengths.mean().item(),
        "completion_tokens_p10": low,
        "completion_tokens_p90": high,
        "share_cut_off": sum(completion.finish == "length" for completion in completions) / count,
        "entropy_sampled": -sum(sum(completion.logprobs) for completion in completions) / lengths.sum().item(),
    }
