import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training.small import colour_task, sft_recipe, small_vlm, weights

from cleareyed.errors import InputError
from cleareyed.models.load import load_vlm
from cleareyed.models.vlm import VLM
from cleareyed.recipe import ModelSpec, OptimizerSpec
from cleareyed.records.run import create_run, read_metrics
from cleareyed.training import checkpoints
from cleareyed.training.checkpoints import TrainState, load_checkpoint, save_checkpoint
from cleareyed.training.loop import adamw, begin, descend, draw, learning_rate, seed_for, zero_gradients
from cleareyed.training.observe import silent
from cleareyed.training.sft import train_sft

VALIDATED = {"eval_every": 2, "validate_on": {"task": {"name": "colours"}}}


def test_every_sample_comes_once_an_epoch() -> None:
    drawn = [index for step in range(1, 11) for index in draw(0, step, 7, 10)]
    epochs = [drawn[start : start + 10] for start in range(0, 70, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 7
    assert draw(0, 1, 7, 10) != draw(1, 1, 7, 10)
    assert sorted(draw(0, 1, 6, 3)) == [0, 0, 1, 1, 2, 2]  # more than there are: twice round


def test_seeds_are_set_apart_by_purpose_and_number() -> None:
    seeds = {
        seed_for(purpose, seed, number) for purpose in ("sample", "epoch") for seed in (-1, 0, 1) for number in (0, 1)
    }
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("linear", 2, [0.5, 1, 1, 0.5]),
        ("cosine", 0, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("constant", 4, [0.25, 0.5, 0.75, 1]),
        ("linear", 8, [0.125, 0.25, 0.375, 0.5]),
    ],
)
def test_learning_rate(schedule: str, warmup: int, expected: list[float]) -> None:
    spec = OptimizerSpec.model_validate({"lr": 2.0, "schedule": schedule, "warmup": warmup})
    assert [learning_rate(spec, step, 4) / 2 for step in (1, 2, 3, 4)] == pytest.approx(expected)


def test_weight_decay_spares_biases_and_norms() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
    optimizer = adamw(parameters, OptimizerSpec(lr=0.1, weight_decay=0.5))
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(parameters[0], torch.tensor(0.95))
    assert torch.equal(parameters[1], torch.ones(2))


def test_updates_that_are_not_finite_change_nothing_and_the_fifth_in_a_row_ends_the_run(tmp_path: Path) -> None:
    recipe = sft_recipe(steps=100)
    vlm, run = small_vlm(), create_run(tmp_path / "run", recipe)
    training = begin(recipe, vlm, run, resume=False, observer=silent, validate=None)

    def update(step: int, gradient: float, loss: float) -> dict[str, float]:
        zero_gradients(training)
        gradients = training.parameters[0].grad
        assert gradients is not None
        gradients[0] = gradient
        return descend(training, step, loss, colour_task().samples[:2])

    before = weights(vlm)
    for step in range(1, 5):
        assert update(step, math.nan if step % 2 else 1.0, 1.0 if step % 2 else math.inf)["skipped"] == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(vlm).items())
    assert update(5, 1.0, 1.0)["skipped"] == 0.0  # a good one starts the count anew
    assert not all(torch.equal(tensor, before[name]) for name, tensor in weights(vlm).items())
    for step in range(6, 10):
        update(step, math.inf, 1.0)
    with pytest.raises(InputError, match=r"not finite in 5 updates in a row, up to step 10; .*lower optimizer\.lr"):
        update(10, math.inf, 1.0)
    lines = [json.loads(line) for line in run.skipped.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert lines[1]["loss"] is None and lines[0]["grad_norm"] is None
    assert lines[1]["samples"] == ["square-0", "square-1"]


def test_the_best_model_is_kept_and_the_earlier_of_equals(tmp_path: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def validate(vlm: VLM, step: int) -> Mapping[str, float]:
        seen[step] = weights(vlm)
        return {"accuracy": {0: 0.1, 2: 0.4, 4: 0.4, 5: 0.2}[step], "format_rate": 0.0}

    recipe = sft_recipe(steps=5, **VALIDATED)
    run = create_run(tmp_path / "run", recipe)
    train_sft(recipe, small_vlm(), colour_task(), run, validate=validate)
    best, final = (weights(load_vlm(ModelSpec(path=str(folder)))) for folder in (run.best, run.final))
    for name, tensor in seen[2].items():
        assert torch.equal(best[name], tensor)
        assert torch.equal(final[name], seen[5][name])
    state = json.loads((run.checkpoint / "state.json").read_text())
    assert (state["step"], state["best_step"], state["best_accuracy"]) == (5, 2, 0.4)
    rows = read_metrics(run)
    assert [row.get("validation/accuracy") for row in rows] == [0.1, None, 0.4, None, 0.4, 0.2]
    assert "loss" not in rows[0] and "loss" in rows[1]


def test_validation_that_nothing_can_do_is_refused(tmp_path: Path) -> None:
    recipe = sft_recipe(eval_every=2)
    with pytest.raises(InputError, match="eval_every is set, but validate_on is not"):
        train_sft(recipe, small_vlm(), colour_task(), create_run(tmp_path / "run", recipe))


def test_nothing_to_train_is_refused(tmp_path: Path) -> None:
    vlm, recipe = small_vlm(), sft_recipe()
    vlm.model.requires_grad_(False)
    with pytest.raises(InputError, match="leave nothing to train"):
        train_sft(recipe, vlm, colour_task(), create_run(tmp_path / "run", recipe))


def test_the_observer_sees_every_step_in_order(tmp_path: Path) -> None:
    class Listener:
        steps: list[tuple[int, int]]

        def __init__(self) -> None:
            self.steps = []
            self.phases: set[str] = set()

        def status(self, what: str, done: int, total: int) -> None:
            self.phases.add(what)

        def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
            assert math.isfinite(metrics["loss"])
            self.steps.append((step, total))

    recipe, listener = sft_recipe(steps=3), Listener()
    run = create_run(tmp_path / "run", recipe)
    train_sft(recipe, small_vlm(), colour_task(), run, observer=listener)
    assert listener.steps == [(1, 3), (2, 3), (3, 3)]
    assert listener.phases == {"update", "save"}


def test_tensorboard_gets_the_metrics(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = sft_recipe(steps=2, log_tensorboard=True)
    run = create_run(tmp_path / "run", recipe)
    train_sft(recipe, small_vlm(), colour_task(), run)
    events = accumulator.EventAccumulator(str(run.tensorboard)).Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(row["step"], pytest.approx(row["loss"])) for row in read_metrics(run)]


def test_tensorboard_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it could not be imported
    recipe = sft_recipe(log_tensorboard=True)
    with pytest.raises(InputError, match=r"cleareyed\[tensorboard\]"):
        train_sft(recipe, small_vlm(), colour_task(), create_run(tmp_path / "run", recipe))


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizers = [torch.optim.AdamW(model.parameters()) for model in (first, second)]
    first(torch.ones(3)).sum().backward()
    optimizers[0].step()
    state = TrainState(step=1, samples=2, tokens=3, unusable=1, best_step=0, best_accuracy=0.25)
    save_checkpoint(tmp_path / "checkpoint", first, optimizers[0], state)
    assert load_checkpoint(tmp_path / "checkpoint", second, optimizers[1]) == state
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        moments, restored = optimizers[0].state[one], optimizers[1].state[other]
        assert moments.keys() == restored.keys()
        assert all(torch.equal(moments[name], restored[name]) for name in moments)


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, model, optimizer, TrainState(step=1))
    for other, message in ((torch.nn.Linear(4, 2), "weight has another shape"), (torch.nn.PReLU(), "only in one of")):
        with pytest.raises(InputError, match=message):
            load_checkpoint(folder, other, torch.optim.AdamW(other.parameters()))
    (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:-4])
    with pytest.raises(InputError, match="the checkpoint cannot be read"):
        load_checkpoint(folder, model, optimizer)


def test_a_run_that_filled_the_disk_says_how_to_go_on_and_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, saved = sft_recipe(steps=4, save_every=1), []

    def filling(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
        saved.append(path)
        if len(saved) == 6:  # the moments of the third step
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata)

    calm, filled = (create_run(tmp_path / name, recipe) for name in ("calm", "filled"))
    train_sft(recipe, small_vlm(), colour_task(), calm)
    monkeypatch.setattr(checkpoints, "save_file", filling)
    with pytest.raises(InputError, match=r"No space left.*the earlier one is kept; free .*go on with --resume"):
        train_sft(recipe, small_vlm(), colour_task(), filled)
    train_sft(recipe, small_vlm(), colour_task(), filled, resume=True)
    assert (filled.final / "model.safetensors").read_bytes() == (calm.final / "model.safetensors").read_bytes()
