"""Group-relative policy optimisation (GRPO) with rule rewards, as VisualThinker-R1-Zero ran it (arXiv 2503.05132,
Table 2 and code) and in today's variants (`recipe.LossSpec`)."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from cleareyed.models.check import check_engine
from cleareyed.models.forward import continuation_logprobs, cut, join, run_prefix, trains_vision
from cleareyed.models.kept import room_for
from cleareyed.models.lora import adapted_layers, adapters_off
from cleareyed.models.vlm import VLM
from cleareyed.recipe import GrpoRecipe
from cleareyed.records.parts import write_rollouts
from cleareyed.records.run import RunFolder, append_check
from cleareyed.scoring.rewards import RewardFunction
from cleareyed.tasks.prompts import prompt_style
from cleareyed.tasks.task import Task
from cleareyed.training.loop import (
    Clock,
    Probe,
    Validate,
    begin,
    descend,
    end_step,
    finish,
    remaining_steps,
    zero_gradients,
)
from cleareyed.training.losses import token_losses
from cleareyed.training.micro import Seen, add_reference, remember, split
from cleareyed.training.observe import Observer, silent
from cleareyed.training.rollouts import (
    Judging,
    Round,
    Sampler,
    Source,
    all_of,
    roll_out,
    rollout_metrics,
    rollout_rows,
)


def train_grpo(
    recipe: GrpoRecipe,
    vlm: VLM,
    task: Task,
    rewards: Sequence[RewardFunction],
    run: RunFolder,
    *,
    resume: bool = False,
    observer: Observer = silent,
    validate: Validate | None = None,
    probe: Probe | None = None,
    sampler: Sampler | None = None,
) -> None:
    """Train `vlm` in place for `recipe.steps` steps and record everything in `run`.

    `vlm` holds the start weights, when resuming too: they are the reference of the KL penalty. In a step each image
    is encoded once and each prompt run once: rollouts and the first update continue the same run, unless
    `micro_prompts` saves its memory; where `models.kept` has room for them, completions are run once too. Rewards are
    called with one group at a time, on another thread, while other groups are being drawn; so is the next step's batch
    prepared. Leaves `final/`, and `best/` if validated.

    `sampler` draws the rollouts elsewhere than in `vlm`, and owes it to the caller that its weights are those of
    `vlm`; `importance_cap` then corrects for what differs, and `mismatch/...` in the metrics shows it.

    Raises:
        InputError: a shared forward that disagrees with the plain one, a prompt longer than `max_prompt_tokens`,
            five unusable updates in a row, a full disk, and whatever rewards and images find wrong.
    """
    style = prompt_style(recipe.prompt)
    temperature = recipe.sampling.temperature
    reference, as_reference = reference_policy(recipe, vlm)
    training = begin(recipe, vlm, run, resume=resume, observer=observer, validate=validate, probe=probe)
    steps = remaining_steps(training)
    size = recipe.prompts_per_step * recipe.sampling.group
    room = None if sampler is not None else room_for(vlm, size, recipe.sampling.max_tokens)

    with ThreadPoolExecutor(1, "aside") as aside:
        source = Source(vlm, task, style, recipe, aside)
        judging = Judging(rewards, task.rule, style.opens, aside)
        for step in steps:
            clock = Clock(vlm.device)
            with clock("prepare"):  # B samples and their prompts, made during the last step
                batch = source.take(step)
            rounds = [roll_out(recipe, vlm, batch, judging, sampler, room, (step, 0), clock, observer)]
            while len(rounds) <= recipe.refills and (wanted := recipe.prompts_per_step - signals(rounds)) > 0:
                with clock("prepare"):
                    batch = source.refill(step, len(rounds), wanted)
                rounds.append(
                    roll_out(recipe, vlm, batch, judging, sampler, room, (step, len(rounds)), clock, observer)
                )
            rollouts = all_of(rounds)
            write_rollouts(run, step, rollout_rows(step, rollouts, style.opens))

            if step == steps.start:
                with clock("check"):
                    prompts = rounds[0].batch.prompts
                    b = next((b for b, prompt in enumerate(prompts) if prompt.pixels is not None), 0)
                    two = rounds[0].groups[b][:2]
                    found = check_engine(vlm, prompts[b], two, temperature, rounds[0].replayed(b, [0, 1]))
                    append_check(run, {"step": step, **found})

            units = split(rounds, recipe, vlm.device)
            with clock("reference"):
                if reference is not None:
                    with as_reference():
                        add_reference(reference, units, temperature, share_features=not trains_vision(vlm))

            with clock("update"):
                updates = []
                for number in range(recipe.updates):
                    zero_gradients(training)
                    seen = Seen()
                    for done, unit in enumerate(units):
                        observer.status("update", done, len(units))
                        prefix = unit.prefix if number == 0 else None
                        prefix = prefix or run_prefix(vlm, unit.prompts, unit.features)
                        leaves = cut(prefix)
                        for part in unit.batches:  # N completions of up to T tokens
                            logprobs, entropy = continuation_logprobs(
                                vlm,
                                leaves,
                                part.rows,
                                part.ids,
                                part.mask,
                                temperature,
                                replayed=part.replayed if number == 0 else None,
                            )  # (N, T), (N, T)
                            old = remember(part, logprobs, recipe.importance_cap)  # (N, T)
                            terms = token_losses(
                                logprobs,
                                old,
                                part.reference,
                                part.advantages,
                                part.mask,
                                recipe.loss,
                                recipe.beta,
                                part.weights,
                            )
                            loss = (terms.losses * part.scales[:, None]).sum()  # its share of the step's
                            loss.backward()
                            seen.add(part, logprobs, entropy, terms, loss)
                        join(prefix, leaves)
                    update = descend(training, step, seen.loss, rollouts.batch.samples, seen.not_finite)
                    updates.append((seen, update))

            tokens = sum(len(completion.ids) for group in rollouts.groups for completion in group)
            first, last = updates[0][0], updates[-1][0]
            metrics = {
                **rollout_metrics(rollouts, style.opens),
                **first.metrics(with_kl=recipe.beta > 0),
                **updates[-1][1],
                "skipped": sum(update["skipped"] for _, update in updates),
                **({"share_clipped": last.share_clipped} if recipe.updates > 1 else {}),
                **({"replaced": len(rollouts.groups) - recipe.prompts_per_step} if recipe.refills else {}),
                "tokens_per_second": tokens / clock.total,
                **clock.metrics(),
            }
            del rounds, units  # and with them what is left of the prompts' graphs
            end_step(training, step, metrics, samples=len(rollouts.groups), tokens=tokens)
    finish(training)


def signals(rounds: Sequence[Round]) -> int:
    """Groups so far whose rewards are not all equal."""
    return sum(turn.with_signal for turn in rounds)


def reference_policy(recipe: GrpoRecipe, vlm: VLM) -> tuple[VLM | None, Callable[[], AbstractContextManager[None]]]:
    """The reference of the KL penalty, and what to run it under: a frozen copy, or the model without its adapters.

    None without a penalty: then no weights are held for it.
    """
    if recipe.beta == 0:
        return None, nullcontext
    if adapted_layers(vlm.model):
        return vlm, partial(adapters_off, vlm)
    return replace(vlm, model=copy.deepcopy(vlm.model).requires_grad_(False).eval()), nullcontext
