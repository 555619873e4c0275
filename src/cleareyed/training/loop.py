"""What GRPO and SFT share: the order of samples, the learning rate, the update, and what is kept after a step.

Every number drawn is a function of (seed, step). A run's state is therefore the weights, the optimizer's moments
and `TrainState`, and a resumed run repeats the undisturbed one bit for bit on the same machine.
"""

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from cleareyed.errors import InputError
from cleareyed.models.pages import gather_heap
from cleareyed.models.save import save_vlm, settle_folder
from cleareyed.models.vlm import VLM, EncodedPrompt
from cleareyed.recipe import GrpoRecipe, OptimizerSpec, SftRecipe
from cleareyed.records.run import RunFolder, append_metrics, append_skipped, truncate_after
from cleareyed.tasks.task import Sample
from cleareyed.training.checkpoints import STATE, TrainState, load_checkpoint, save_checkpoint
from cleareyed.training.observe import Observer

Validate = Callable[[VLM, int], Mapping[str, float]]
"""(vlm, step) to measured values; `accuracy` among them."""
Probe = Callable[[VLM, int], Mapping[str, float]]
"""(vlm, step) to what was measured of the thinking, a function of the weights alone."""
UNUSABLE_LIMIT = 5
"""So many updates in a row without a finite loss and gradient end the run."""


# Randomness and schedule: functions of the step


def seed_for(purpose: str, seed: int, number: int) -> int:
    """A seed of 63 bits, unrelated for different arguments."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw(seed: int, step: int, count: int, total: int) -> list[int]:
    """The samples of a step: `count` indices out of range(`total`); `step` counts from 1.

    Steps walk through a permutation of all samples and, at its end, on into the next epoch's. Runs with the same
    seed and count see the same samples at the same step, whatever their method.
    """
    start = (step - 1) * count
    return [int(_permutation(seed, place // total, total)[place % total]) for place in range(start, start + count)]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, total: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed_for("epoch", seed, epoch))
    return torch.randperm(total, generator=generator)  # (total,)


def learning_rate(spec: OptimizerSpec, step: int, steps: int) -> float:
    """The rate of step 1 <= `step` <= `steps`.

    Warm-up climbs linearly and reaches `spec.lr` in its last step. `linear` then falls so that the first step
    after warm-up has the full rate and one step beyond the last would have 0; `cosine` falls between the same ends.
    """
    if step <= spec.warmup:
        return spec.lr * step / spec.warmup
    done = (step - 1 - spec.warmup) / (steps - spec.warmup)
    match spec.schedule:
        case "constant":
            return spec.lr
        case "linear":
            return spec.lr * (1 - done)
        case "cosine":
            return spec.lr * 0.5 * (1 + math.cos(math.pi * done))


class Clock:
    """Seconds by phase, for `seconds/...` in the metrics."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = time.perf_counter()
        self._phases: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._phases[phase] = self._phases.get(phase, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        return time.perf_counter() - self._start

    def metrics(self) -> dict[str, float]:
        return {f"seconds/{phase}": seconds for phase, seconds in {**self._phases, "total": self.total}.items()}


def check_length(sample: Sample, prompt: EncodedPrompt, limit: int) -> None:
    """Raises InputError if the prompt is longer than `limit` tokens: prompts are never cut."""
    if len(prompt.ids) > limit:
        raise InputError(
            f"sample {sample.id}: its prompt has {len(prompt.ids)} tokens, more than max_prompt_tokens={limit}; "
            "raise that or lower model.max_pixels"
        )


# A run in progress


@dataclass
class Training:
    """A run in progress. `state` is replaced, and the tensors change, with every step."""

    recipe: GrpoRecipe | SftRecipe
    vlm: VLM
    run: RunFolder
    observer: Observer
    validate: Validate | None
    probe: Probe | None
    optimizer: torch.optim.AdamW
    parameters: Sequence[nn.Parameter]
    """Those that are trained; frozen ones are not among them."""
    board: Any = None
    """TensorBoard's writer, if asked for."""
    state: TrainState = field(default_factory=TrainState)
    gathered: bool = False
    """Whether memory lies in large pages: on a CPU so from the end of the first step on, when most is held."""


def begin(
    recipe: GrpoRecipe | SftRecipe,
    vlm: VLM,
    run: RunFolder,
    *,
    resume: bool,
    observer: Observer,
    validate: Validate | None,
    probe: Probe | None = None,
) -> Training:
    """Set up a run, or put an interrupted one back to its last checkpoint (to its start if it has none).

    `vlm` holds the start weights in both cases. Parameters with `requires_grad` False stay as they are.

    Raises:
        InputError: nothing is left to train, `eval_every` without `validate`, `thinking` without `probe`, TensorBoard
            missing, a bad checkpoint.
    """
    if recipe.thinking is not None and probe is None:
        raise InputError("recipe: thinking is set, but there is nothing to probe with; hand in `probe`, or unset it")
    if recipe.eval_every and validate is None:
        raise InputError("recipe: eval_every is set, but validate_on is not; name the task to measure, or set 0")
    parameters = [parameter for parameter in vlm.model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("recipe: model.freeze_vision and model.freeze_language leave nothing to train; unset one")
    training = Training(
        recipe=recipe,
        vlm=vlm,
        run=run,
        observer=observer,
        validate=validate if recipe.eval_every else None,
        probe=probe if recipe.thinking is not None else None,
        optimizer=adamw(parameters, recipe.optimizer),
        parameters=parameters,
    )
    for folder in (run.checkpoint, run.best, run.final):
        settle_folder(folder)
    if resume and (run.checkpoint / STATE).is_file():
        training.state = load_checkpoint(run.checkpoint, vlm.model, training.optimizer)
        truncate_after(run, training.state.step)
    elif resume:
        truncate_after(run, -1)
    if recipe.log_tensorboard:
        training.board = _open_board(run, training.state.step)
    if training.state.step == 0 and not (training.validate is None and training.probe is None):
        metrics = {**_validation(training, 0), **_probed(training, 0)}
        _keep_metrics(training, 0, metrics)
    return training


def adamw(parameters: Sequence[nn.Parameter], spec: OptimizerSpec) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on biases and norms."""
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=spec.lr,
        betas=(0.9, spec.beta2),
        eps=1e-8,
        fused=True,  # one pass over the weights, and no copies of them
    )


def remaining_steps(training: Training) -> range:
    """The steps still to do, counted from 1."""
    return range(training.state.step + 1, training.recipe.steps + 1)


def zero_gradients(training: Training) -> None:
    """Give every trained parameter a gradient of zeros, also those this step will not reach.

    A parameter without gradient would be passed over by AdamW, or not, depending on what earlier steps reached,
    and a resumed run would differ from an undisturbed one.
    """
    for parameter in training.parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()


def descend(
    training: Training, step: int, loss: float, samples: Sequence[Sample], not_finite: Collection[str] = ()
) -> dict[str, float]:
    """Clip the gradients that the step has gathered, and update the weights with them.

    A loss or gradient that is not finite updates nothing, is counted, and leaves a line in `skipped.jsonl` of the
    run's folder. It names the samples whose own loss was `not_finite`; if none's was, all `samples` of the step.

    Returns:
        `grad_norm` (before clipping), `lr`, `skipped` (0 or 1).

    Raises:
        InputError: the fifth unusable update in a row.
    """
    spec, run = training.recipe.optimizer, training.run
    lr = learning_rate(spec, step, training.recipe.steps)
    norm = nn.utils.clip_grad_norm_(training.parameters, spec.max_grad_norm or math.inf).item()
    usable = math.isfinite(loss) and math.isfinite(norm)
    if usable:
        for group in training.optimizer.param_groups:
            group["lr"] = lr
        training.optimizer.step()
    else:
        named = [sample.id for sample in samples if not not_finite or sample.id in not_finite]
        append_skipped(run, {"step": step, "loss": loss, "grad_norm": norm, "samples": named})
    unusable = 0 if usable else training.state.unusable + 1
    if unusable >= UNUSABLE_LIMIT:
        raise InputError(
            f"{run.path}: loss or gradient was not finite in {unusable} updates in a row, up to step {step}; the "
            f"samples are in {run.skipped.name} and their completions in rollouts; lower optimizer.lr, or look at "
            "the rewards"
        )
    training.state = replace(training.state, unusable=unusable)
    return {"grad_norm": norm, "lr": lr, "skipped": float(not usable)}


def end_step(training: Training, step: int, metrics: Mapping[str, float], *, samples: int, tokens: int) -> None:
    """Count, validate, record and save what is due after a step; `samples` and `tokens` are this step's own."""
    recipe, state = training.recipe, training.state
    if training.vlm.device.type == "cpu" and not training.gathered:
        gather_heap()
        training.gathered = True
    training.state = replace(state, step=step, samples=state.samples + samples, tokens=state.tokens + tokens)
    values = {**metrics, "samples": training.state.samples, "tokens": training.state.tokens}
    if training.validate is not None and (step % recipe.eval_every == 0 or step == recipe.steps):
        values |= _validation(training, step)
    if recipe.thinking is not None and (step % recipe.thinking.every == 0 or step == recipe.steps):
        values |= _probed(training, step)
    _keep_metrics(training, step, values)
    if step % recipe.save_every == 0 or step == recipe.steps:
        training.observer.status("save", 0, 1)
        save_checkpoint(training.run.checkpoint, training.vlm.model, training.optimizer, training.state)


def finish(training: Training) -> None:
    """Save the model of the last step as `final/`."""
    if training.board is not None:
        training.board.close()
    save_vlm(training.vlm, training.run.final, "fp32")


def _validation(training: Training, step: int) -> dict[str, float]:
    """Measure, and keep the model in `best/` if it is more accurate than any before."""
    if training.validate is None:
        return {}
    start = time.perf_counter()
    with torch.no_grad():
        values = training.validate(training.vlm, step)
    best = training.state.best_accuracy
    if best is None or values["accuracy"] > best:
        save_vlm(training.vlm, training.run.best, "fp32")
        training.state = replace(training.state, best_step=step, best_accuracy=values["accuracy"])
    measured = {f"validation/{name}": value for name, value in values.items()}
    return {**measured, "seconds/validation": time.perf_counter() - start}


def _probed(training: Training, step: int) -> dict[str, float]:
    """Measure the thinking."""
    if training.probe is None:
        return {}
    start = time.perf_counter()
    with torch.no_grad():
        values = training.probe(training.vlm, step)
    measured = {f"thinking/{name}": value for name, value in values.items()}
    return {**measured, "seconds/thinking": time.perf_counter() - start}


def _keep_metrics(training: Training, step: int, metrics: Mapping[str, float]) -> None:
    append_metrics(training.run, {"step": step, **metrics})
    if training.board is not None:
        for name, value in metrics.items():
            training.board.add_scalar(name, value, step)
        training.board.flush()
    training.observer.step(step, training.recipe.steps, metrics)


def _open_board(run: RunFolder, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "recipe: log_tensorboard needs TensorBoard; pip install 'cleareyed[tensorboard]', or set it to false"
        ) from error
    return SummaryWriter(log_dir=str(run.tensorboard), purge_step=step + 1)
