"""What a run needs, as strict data: the schema of `recipes/*.yaml`.

Reading files and `key=value` overrides is in `cleareyed.recipe_files`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraSpec(Strict):
    """Low-rank adapters on the linear layers, without dropout (needs `pip install 'cleareyed[lora]'`)."""

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the language model's linear layers."""


class ModelSpec(Strict):
    path: str = "tiny-base"
    """A folder, a hub id, or `tiny-base`."""
    revision: str | None = None
    dtype: Literal["fp32", "bf16"] = "fp32"
    """bf16: fp32 master weights under bf16 autocast."""
    min_pixels: Positive | None = None
    max_pixels: Positive | None = None
    freeze_vision: bool = False
    freeze_language: bool = False
    gradient_checkpointing: bool | Literal["vision"] = False
    """Keep only the inputs of each block for the backward; `vision`: of the vision tower's blocks alone."""
    lora: LoraSpec | None = None
    """Train adapters instead of the weights."""


class TaskSpec(Strict):
    """A task by name; the fields that do not belong to that task must be left out."""

    name: str
    """`scenes-train`, `scenes-val`, `scenes-bench`, `blink`, `nlvr`, or `table` (your own file)."""
    path: str | None = None
    """`table`: the JSONL or parquet file. Others: a folder or file under the data root, instead of the usual one."""
    split: str | None = None
    limit: Positive | None = None
    """Only the first so many samples."""
    rule: str | None = None
    """Accuracy rule, instead of the task's own."""


class RewardSpec(Strict):
    function: str
    """`accuracy`, `format`, `length`, or `FILE.py:FUNCTION` (needs --allow-code)."""
    weight: float = 1.0
    rule: str | None = None
    """`accuracy` only: the accuracy rule."""


class EvalSpec(Strict):
    """A measurement during or around training."""

    task: TaskSpec
    prompt: str | None = None
    """Prompt style; the one trained with if left out."""
    max_tokens: Positive | None = None
    """Longest answer; the training limit if left out."""
    batch: Positive = 64


class ThinkingSpec(Strict):
    """How the thinking is measured while training, on a fixed set of questions (`cleareyed.thinking`)."""

    probe_items: Positive = 64
    """The first so many questions."""
    every: Positive = 25
    """Steps from one measurement to the next; the first is before training, the last after its last step."""
    counterfactual: bool = True
    """Also ask with the thought cut, replaced and removed, and with other pictures: eight answers more a question."""
    on: EvalSpec | None = None
    """What is asked; what `validate_on` asks, else the training task, if left out."""


class SamplingSpec(Strict):
    group: Annotated[int, Field(ge=2)] = 8
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_tokens: Positive = 700


class OptimizerSpec(Strict):
    lr: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: Annotated[int, Field(ge=0)] = 0
    weight_decay: NonNegative = 0.0
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    max_grad_norm: NonNegative = 1.0


class RunSpec(Strict):
    """The fields every kind of run shares."""

    seed: int = 0
    model: ModelSpec = ModelSpec()
    optimizer: OptimizerSpec
    steps: Positive
    save_every: Positive = 50
    log_tensorboard: bool = False
    threads: Positive | None = None
    """Torch threads; all cores if left out."""


class LossSpec(Strict):
    """The surrogate that GRPO descends (`cleareyed.training.losses`)."""

    advantage: Literal["grpo", "dr-grpo", "rloo"] = "grpo"
    """(r - mean) / std; r - mean; r - mean of the others."""
    aggregate: Literal["sequence", "token", "constant"] = "sequence"
    """Mean over each completion's tokens, then over completions; over all tokens (DAPO); over `sampling.max_tokens`
    places for each completion, however long it is (Dr. GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """New to old probability of each token, or the geometric mean over the completion (GSPO, whose paper clips at
    3e-4 below and 4e-4 above)."""
    clip_low: NonNegative = 0.2
    clip_high: NonNegative = 0.2
    clip_ceiling: float | None = None
    """Two-sided clipping: no ratio counts as more than this, for bad completions either."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the divergence that `beta` weighs."""

    @model_validator(mode="after")
    def _ceiling_is_above(self) -> "LossSpec":
        if self.clip_ceiling is not None and self.clip_ceiling < 1 + self.clip_high:
            raise ValueError(
                f"clip_ceiling {self.clip_ceiling} is below 1 + clip_high = {1 + self.clip_high}; raise it"
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "classic": {"beta": 0.04, "loss": {"aggregate": "sequence", "clip_low": 0.2, "clip_high": 0.2}},
    "modern": {"beta": 0.0, "loss": {"aggregate": "token", "clip_low": 0.2, "clip_high": 0.28}},
}
"""What a preset sets where the recipe is silent: GRPO as the paper ran it, and as most run it today (DAPO)."""


class GrpoRecipe(RunSpec):
    method: Literal["grpo"]
    preset: Literal["classic", "modern"] = "classic"
    task: TaskSpec
    prompt: str = "base"
    prompts_per_step: Positive = 8
    micro_prompts: Positive | None = None
    """Prompts whose graphs are held at a time. All of a step's if left out, which also spares running them again
    for the update after the rollouts."""
    micro_tokens: Positive = 2048
    """Most completion tokens per forward and backward, unless one completion alone has more. The default is what a
    CPU's caches hold of a small model; a GPU wants more."""
    sampling: SamplingSpec = SamplingSpec()
    rewards: tuple[RewardSpec, ...] = (RewardSpec(function="accuracy"), RewardSpec(function="format"))
    loss: LossSpec = LossSpec()
    beta: NonNegative = 0.04
    """Weight of the KL penalty; 0 loads no reference model."""
    updates: Positive = 1
    """Updates on each batch of rollouts; from the second on they are off-policy, and the ratios are clipped."""
    refills: Annotated[int, Field(ge=0)] = 0
    """Dynamic sampling: so many times at most, groups without signal are replaced by those of new prompts."""
    mask_truncated: bool = False
    """Leave completions that were cut off at `sampling.max_tokens` out of the loss and its normalisation."""
    importance_cap: Annotated[float, Field(gt=0)] | None = None
    """Weigh each token by min(this, trained / sampled probability): for rollouts of an engine that is not ours."""
    max_prompt_tokens: Positive = 1024
    eval_every: Annotated[int, Field(ge=0)] = 0
    """0: never during training."""
    validate_on: EvalSpec | None = None
    """What `eval_every` measures; the best checkpoint is kept by its accuracy."""
    measure: tuple[EvalSpec, ...] = ()
    """Measured before training and after it, for the report."""
    thinking: ThinkingSpec | None = None
    """Curves of the thinking; none if left out."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        preset = PRESETS.get(str(data.get("preset", "classic"))) if isinstance(data, dict) else None
        if preset is None:
            return data
        loss = data.get("loss", {})
        filled = {**preset, **data, "loss": {**preset["loss"], **loss} if isinstance(loss, dict) else loss}
        return _with_tuples(filled)


def _with_tuples(value: Any) -> Any:
    """Lists as the tuples that the fields hold: what has passed a validator in Python is no longer read as JSON."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


class FormSpec(Strict):
    """A way of asking and the text to be written then."""

    prompt: str
    target: str = "{answer}"
    """`{answer}` stands for the gold answer, other names in braces for columns of the data, such as `{thought}`."""


class SftRecipe(RunSpec):
    method: Literal["sft"]
    task: TaskSpec
    prompt: str = "no-reasoning"
    forms: tuple[FormSpec, ...] = ()
    """Several ways, which take turns from sample to sample, instead of `prompt` and the bare answer; `prompt` then
    says how the model is asked when evaluated."""
    batch: Positive = 8
    """Samples per optimizer step."""
    micro_batch: Positive | None = None
    train_on_prompt: bool = False
    """Also learn the prompt's text tokens, as the paper's code did."""
    max_prompt_tokens: Positive = 1024
    max_tokens: Positive = 64
    """Longest answer when evaluated."""
    eval_every: Annotated[int, Field(ge=0)] = 0
    validate_on: EvalSpec | None = None
    measure: tuple[EvalSpec, ...] = ()
    thinking: ThinkingSpec | None = None


def probed(recipe: GrpoRecipe | SftRecipe) -> EvalSpec | None:
    """What the probes of the thinking ask, cut to `thinking.probe_items`; None if the recipe has none."""
    spec = recipe.thinking
    if spec is None:
        return None
    asked = spec.on or recipe.validate_on or EvalSpec(task=recipe.task)
    limit = min(spec.probe_items, asked.task.limit or spec.probe_items)
    return asked.model_copy(update={"task": asked.task.model_copy(update={"limit": limit})})


class ShapeSpec(Strict):
    """The architecture that pretraining starts from."""

    vocab: Positive = 1024
    hidden: Positive = 192
    layers: Positive = 6
    heads: Positive = 6
    kv_heads: Positive = 2
    intermediate: Positive = 512
    vision_hidden: Positive = 128
    vision_layers: Positive = 4
    vision_heads: Positive = 4
    patch: Positive = 8
    image_px: Positive = 96


class PretrainRecipe(Strict):
    method: Literal["pretrain"]
    seed: int = 0
    shape: ShapeSpec = ShapeSpec()
    optimizer: OptimizerSpec
    steps: Positive
    images_per_step: Positive = 32
    tokens_per_image: Positive = 288
    """Text tokens packed behind one image, in several turns that do not see each other."""
    mixture: dict[str, NonNegative]
    """Style of text to its weight (`cleareyed.training.corpus`)."""
    vision_steps: Annotated[int, Field(ge=0)] = 0
    """So many first steps train on naming alone: each image token names what stands there, no text is read."""
    names_weight: NonNegative = 0.0
    """Weight of naming in the loss, beside the text's 1."""
    save_every: Positive = 500
    threads: Positive | None = None


Recipe = Annotated[GrpoRecipe | SftRecipe | PretrainRecipe, Field(discriminator="method")]
