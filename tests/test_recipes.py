"""Recipe files: what is read, and what is refused with which words."""

from pathlib import Path

import pytest
from conftest import ROOT

from cleareyed.errors import InputError
from cleareyed.recipe import GrpoRecipe, RewardSpec, SftRecipe
from cleareyed.recipe_files import load_recipe, shipped_recipe

SMALL = """\
method: grpo
task: {name: scenes-train}
steps: 10
optimizer: {lr: 1e-4}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_is_valid(path: Path) -> None:
    assert load_recipe(path).steps > 0


def test_the_papers_grpo_settings() -> None:
    recipe = load_recipe(ROOT / "recipes/visualthinker-2b.yaml")
    assert isinstance(recipe, GrpoRecipe)
    assert recipe.model.path == "Qwen/Qwen2-VL-2B"
    assert (recipe.model.min_pixels, recipe.model.max_pixels, recipe.model.dtype) == (3136, 401408, "bf16")
    assert recipe.model.gradient_checkpointing
    assert (recipe.sampling.group, recipe.sampling.temperature, recipe.sampling.max_tokens) == (8, 1.0, 700)
    assert (recipe.prompts_per_step, recipe.steps, recipe.beta, recipe.max_prompt_tokens) == (8, 1500, 0.04, 1024)
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.schedule, optimizer.warmup, optimizer.weight_decay) == (1e-6, "linear", 0, 0.0)
    assert [(reward.function, reward.rule) for reward in recipe.rewards] == [
        ("accuracy", "paper-reward"),
        ("format", None),
    ]


def test_the_papers_sft_settings() -> None:
    recipe = load_recipe(ROOT / "recipes/visualthinker-2b-sft.yaml")
    assert isinstance(recipe, SftRecipe)
    assert (recipe.optimizer.lr, recipe.batch, recipe.train_on_prompt) == (2e-5, 8, True)
    assert recipe.steps == 2 * 15_000 // recipe.batch


def test_the_demo_twins_see_the_same_samples() -> None:
    grpo, sft = load_recipe(shipped_recipe("demo-grpo.yaml")), load_recipe(shipped_recipe("demo-sft.yaml"))
    assert isinstance(grpo, GrpoRecipe)
    assert isinstance(sft, SftRecipe)
    assert (grpo.task, grpo.seed, grpo.prompts_per_step) == (sft.task, sft.seed, sft.batch)
    assert (grpo.model, grpo.measure, grpo.validate_on) == (sft.model, sft.measure, sft.validate_on)


def test_numbers_are_read_as_numbers(recipe_file: Path) -> None:
    assert load_recipe(recipe_file).optimizer.lr == 1e-4
    assert load_recipe(recipe_file, ["optimizer.lr=3e-5"]).optimizer.lr == 3e-5


def test_overrides_reach_into_what_the_file_leaves_out(recipe_file: Path) -> None:
    overrides = [
        "sampling.group=4",
        "rewards.1.weight=0.5",
        "validate_on.task.name=scenes-val",
        "eval_every=5",
        "model.freeze_vision=true",
    ]
    recipe = load_recipe(recipe_file, overrides)
    assert isinstance(recipe, GrpoRecipe)
    assert (recipe.sampling.group, recipe.sampling.temperature) == (4, 1.0)
    assert recipe.rewards == (RewardSpec(function="accuracy"), RewardSpec(function="format", weight=0.5))
    assert recipe.validate_on is not None
    assert recipe.validate_on.task.name == "scenes-val"
    assert recipe.model.freeze_vision


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SMALL + "stepz: 3\n", "unknown key stepz; did you mean `steps`?"),
        (SMALL.replace("task:", "taks:"), "unknown key taks; did you mean `task`?"),
        (SMALL + "sampling: {gruop: 4}\n", "unknown key sampling.gruop; did you mean `group`?"),
        (SMALL + "measure: [{task: {name: nlvr, splt: dev}}]\n", "measure.0.task.splt; did you mean `split`?"),
        (SMALL + "sampling: {group: 1}\n", "sampling.group is 1; GRPO compares the completions of one prompt"),
        (SMALL + "steps: 3\n", "line 5 the key `steps` stands twice"),
        (SMALL.replace("10", '"10"'), "steps is '10'; it should be a valid integer"),
        (SMALL.replace("10", "yes"), "steps is 'yes'; it should be a valid integer"),
        (SMALL.replace("10", "0"), "steps is 0; it should be greater than 0"),
        (SMALL.replace("{lr: 1e-4}", "{}"), "optimizer.lr is missing; add `lr: ...` under optimizer"),
        (SMALL.replace("1e-4", "1e999"), "infinite"),
        (SMALL.replace("grpo", "gpro"), "did you mean `grpo`?"),
        (SMALL.replace("method: grpo\n", ""), "method is missing"),
        (SMALL + "a: &x 1\nb: *x\n", "aliases"),
        (SMALL + "eval_every: 5\n", "eval_every is set without validate_on"),
        (SMALL + "seed: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("- a list\n", "holds no `key: value` lines"),
        ("", "holds no `key: value` lines"),
        ("task: [1\n", "line 2"),
        ("[" * 1500, "not readable as YAML"),
    ],
)
def test_a_bad_file_is_refused(recipe_file: Path, text: str, says: str) -> None:
    recipe_file.write_text(text)
    assert says in refusal(recipe_file)
    assert str(recipe_file) in refusal(recipe_file)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lrr=1e-4", "there is no lrr; did you mean `lr`?"),
        ("smapling.group=4", "there is no smapling; did you mean `sampling`?"),
        ("sampling.group=1", "a group needs at least 2"),
        ("rewards.7.weight=1", "rewards has 2 entries"),
        ("steps.more=1", "steps holds no further keys"),
        ("steps=ten", "it should be a valid integer"),
        ("steps", "write key=value"),
        ("steps=[1", "line 1"),
        ("method=sft", "the method is fixed"),
        ("optimizer={lr: 1e-4, shedule: constant}", "unknown key optimizer.shedule; did you mean `schedule`?"),
    ],
)
def test_a_bad_override_is_refused(recipe_file: Path, override: str, says: str) -> None:
    message = refusal(recipe_file, override)
    assert says in message
    assert "command line" in message
    assert override in message


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "no such recipe" in refusal(tmp_path / "absent.yaml")
    assert "directory" in refusal(tmp_path).lower()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(tmp_path / "binary.yaml")


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as error:
        load_recipe(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_presets_fill_in_what_the_recipe_leaves_out(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("method: grpo\ntask: {name: scenes-train}\noptimizer: {lr: 1e-3}\nsteps: 3\n")
    classic, modern = load_recipe(path, []), load_recipe(path, ["preset=modern"])
    assert (classic.beta, classic.loss.aggregate, classic.loss.clip_high) == (0.04, "sequence", 0.2)
    assert (modern.beta, modern.loss.aggregate, modern.loss.clip_high) == (0.0, "token", 0.28)
    mixed = load_recipe(path, ["preset=modern", "loss.kl=k1", "beta=0.1"])
    assert (mixed.beta, mixed.loss.aggregate, mixed.loss.kl) == (0.1, "token", "k1")
    assert GrpoRecipe.model_validate_json(modern.model_dump_json()) == modern


def test_a_ceiling_below_the_clip_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("method: grpo\ntask: {name: scenes-train}\noptimizer: {lr: 1e-3}\nsteps: 3\n")
    with pytest.raises(InputError, match=r"r.yaml: loss: clip_ceiling 1.1 is below 1 \+ clip_high = 1.2; raise it"):
        load_recipe(path, ["loss.clip_ceiling=1.1"])
