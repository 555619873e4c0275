"""Before a run of hours: does it fit, what to change if not, and how long will it take?

The largest sample of the data is found first; everything is then worked out (`training.footprint`) and, where the
weights are there, measured (`training.trial`) as if every prompt of a step were that sample.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from cleareyed.errors import InputError
from cleareyed.models.encode import CHAT_CLOSE, CHAT_OPEN, token_ids
from cleareyed.models.ghost import Outline
from cleareyed.recipe import FormSpec, GrpoRecipe, LoraSpec, SftRecipe
from cleareyed.tasks.images import FORMATS, FileImage, Stored
from cleareyed.tasks.prompts import prompt_style, prompt_text
from cleareyed.tasks.task import LoadImage, Sample, Task
from cleareyed.training.footprint import Footprint, Parameters, PromptShape, footprint
from cleareyed.training.loop import draw
from cleareyed.training.sft import forms_of, target_text

TrainingRecipe = GrpoRecipe | SftRecipe
LOOKED_AT = 512
"""So many samples are looked at where each must be made to be seen."""
LETTERS_PER_TOKEN = 3
"""Assumed where there is no tokenizer; English has about four."""
KERNELS = 40_000_000
"""Bytes of library code that the forward and backward bring into memory."""
MARGIN = 0.1
"""Share of the memory that is to stay free."""
Status = Callable[[str, int, int], None]


# The largest sample


@dataclass(frozen=True)
class Scan:
    """What the prompts of a task are like."""

    samples: int
    """How many were looked at."""
    total: int
    """How many there are."""
    index: int
    """The place of the largest."""
    sample_id: str
    sizes: tuple[tuple[int, int], ...]
    """Width and height of its images, as they come."""
    prompt: PromptShape
    tokens: int
    """The length of its prompt."""
    too_long: tuple[tuple[str, int], ...]
    """Ids and tokens of the prompts above `max_prompt_tokens`, in the order of the task."""
    counted: bool
    """False where there is no tokenizer, and text is taken to have a token for every three letters."""


def scan(recipe: TrainingRecipe, task: Task, of: Outline, status: Status) -> Scan:
    """Find the sample with the longest prompt, its images counted as the model will see them.

    The sizes of images in files are read without decoding them, and every sample is looked at. Where images are made
    when asked for, only the first `LOOKED_AT` that the run will draw are.

    Raises:
        InputError: an image that cannot be read, or fitted.
    """
    ways = forms_of(recipe) if isinstance(recipe, SftRecipe) else (FormSpec(prompt=recipe.prompt),)
    forms, total = [(prompt_style(form.prompt), form.target) for form in ways], len(task.samples)
    indices: Sequence[int] = range(total)
    if not all(isinstance(load, Stored) for load in task.samples[0].images):
        indices = draw(recipe.seed, 1, min(LOOKED_AT, total), total)
    count = _counter(of)
    merge = of.config.vision_config.spatial_merge_size
    largest: tuple[int, int, int] | None = None
    found: tuple[Sample, PromptShape, tuple[tuple[int, int], ...]] | None = None
    too_long = []
    for done, index in enumerate(indices):
        status("looking for the largest sample", done, len(indices))
        sample = task.samples[index]
        sizes = tuple(map(_size_of, sample.images))
        grids = tuple(patch_grid(of, *size) for size in sizes)
        asked = [
            (
                count(prompt_text(style, sample.question), style.chat),
                count(target_text(target, sample)) + 1 if isinstance(recipe, SftRecipe) else 0,
            )
            for style, target in forms
        ]
        text, answer = max(asked, key=sum)
        prompt = PromptShape(text, grids, answer)
        tokens = prompt.tokens(merge)
        if tokens > recipe.max_prompt_tokens:
            too_long.append((sample.id, tokens))
        rank = (tokens + answer, sum(high * wide for high, wide in grids), -index)
        if largest is None or rank > largest:
            largest, found = rank, (sample, prompt, sizes)
    assert found is not None
    assert largest is not None
    sample, prompt, sizes = found
    return Scan(
        samples=len(indices),
        total=total,
        index=-largest[2],
        sample_id=sample.id,
        sizes=sizes,
        prompt=prompt,
        tokens=prompt.tokens(merge),
        too_long=tuple(too_long),
        counted=of.tokenizer is not None,
    )


def patch_grid(of: Outline, width: int, height: int, max_pixels: int | None = None) -> tuple[int, int]:
    """Height and width in patches, after the pixel limits, of an image of that many pixels.

    Raises:
        InputError: one side more than 200 times the other.
    """
    processor = of.image_processor
    patch, limits = processor.patch_size, processor.size
    try:
        high, wide = smart_resize(
            height,
            width,
            patch * processor.merge_size,
            min(limits["shortest_edge"], max_pixels or math.inf),
            max_pixels or limits["longest_edge"],
        )
    except ValueError as error:
        raise InputError(f"image of {width}x{height} pixels: more than 200 times longer than wide; crop it") from error
    return high // patch, wide // patch


def _size_of(load: LoadImage) -> tuple[int, int]:
    """Width and height: from the header where the image is stored, else by making it."""
    if isinstance(load, Stored):
        try:
            source = load.path if isinstance(load, FileImage) else BytesIO(load.data())
            with Image.open(source, formats=FORMATS) as image:
                width, height = image.size
                return width, height
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            pass  # loading it, below, says what is wrong
    width, height = load().size
    return width, height


def _counter(of: Outline) -> Callable[..., int]:
    """A function that counts the tokens of a text, with the chat roles around it if asked."""
    tokenizer = of.tokenizer

    def count(text: str, chat: bool = False) -> int:
        roles = (CHAT_OPEN, CHAT_CLOSE) if chat else ()
        if tokenizer is None:
            return sum(math.ceil(len(part) / LETTERS_PER_TOKEN) for part in (text, *roles))
        return len(token_ids(tokenizer, text)) + sum(len(token_ids(tokenizer, role, special=True)) for role in roles)

    return count


# What to change


@dataclass(frozen=True)
class Change:
    """A change to the recipe, on top of those before it."""

    setting: str
    """As an override: `model.gradient_checkpointing=true`."""
    costs: str
    """What is given up for it."""
    peak: int
    """Bytes, with it."""
    fits: bool


def advise(
    recipe: TrainingRecipe,
    peak_of: Callable[[TrainingRecipe], int],
    start: int,
    room: float,
    status: Status,
    notes: list[str],
) -> list[Change]:
    """What to change, least harmful first, until the peak is within `room` bytes; what saves under 1 % is left out.

    `peak_of` works out the peak of a recipe in bytes; where it raises InputError (adapters without peft), the change
    is passed over and the reason added to `notes`. `start` is the peak of `recipe` as it stands.
    """
    changes: list[Change] = []
    before, remedies = start, _remedies(recipe)
    for place, (settings, costs) in enumerate(remedies):
        if before <= room:
            break

        def tried(setting: str, changed: TrainingRecipe, place: int = place) -> int | None:
            status(f"what if {setting}", place, len(remedies))
            try:
                return peak_of(changed)
            except InputError as error:
                notes.append(f"Not worked out: {setting} ({error}).")
                return None

        options = list(settings(recipe))
        if not options:
            continue
        *milder, (setting, changed) = options
        peak = tried(setting, changed)
        if peak is None or peak >= 0.99 * before:
            continue
        for mild in milder if peak <= room else ():
            if (enough := tried(*mild)) is not None and enough <= room:
                (setting, changed), peak = mild, enough
                break
        recipe, before = changed, peak
        changes.append(Change(setting, costs, peak, peak <= room))
    return changes


Settings = Callable[[Any], Iterator[tuple[str, Any]]]


def _remedies(recipe: TrainingRecipe) -> list[tuple[Settings, str]]:
    """Mildest first: each gives its settings, from the least to the strongest, and says what it costs."""
    grpo: list[tuple[Settings, str]] = [
        (_micro_tokens, "nothing but some speed"),
        (partial(_smaller, field="micro_prompts", whole="prompts_per_step"), "prompts are run twice in a step"),
    ]
    sft: list[tuple[Settings, str]] = [(partial(_smaller, field="micro_batch", whole="batch"), "some speed")]
    return [
        *(grpo if isinstance(recipe, GrpoRecipe) else sft),
        (partial(_model, "gradient_checkpointing", True), "about a third more time for the update"),
        (partial(_model, "freeze_vision", True), "the vision tower no longer learns"),
        (_fewer_pixels, "the model sees less detail"),
        (partial(_model, "lora", LoraSpec()), "only adapters learn; needs pip install 'cleareyed[lora]'"),
        *([(_no_penalty, "nothing holds the model near its start")] if isinstance(recipe, GrpoRecipe) else []),
    ]


def _micro_tokens(recipe: GrpoRecipe) -> Iterator[tuple[str, GrpoRecipe]]:
    longest = recipe.sampling.max_tokens
    tokens = min(recipe.micro_tokens, recipe.prompts_per_step * recipe.sampling.group * longest)
    while tokens > longest:
        tokens = max(tokens // 2, longest)
        yield f"micro_tokens={tokens}", recipe.model_copy(update={"micro_tokens": tokens})


def _smaller(recipe: TrainingRecipe, field: str, whole: str) -> Iterator[tuple[str, TrainingRecipe]]:
    count = getattr(recipe, field) or getattr(recipe, whole)
    if getattr(recipe, field) is None and field == "micro_prompts":
        yield f"{field}={count}", recipe.model_copy(update={field: count})
    while count > 1:
        count //= 2
        yield f"{field}={count}", recipe.model_copy(update={field: count})


def _model(field: str, value: object, recipe: TrainingRecipe) -> Iterator[tuple[str, TrainingRecipe]]:
    model = recipe.model
    pointless = field == "freeze_vision" and (model.freeze_language or model.lora is not None)
    if pointless or (field == "lora" and model.freeze_language) or getattr(model, field):
        return
    shown = "{}" if isinstance(value, LoraSpec) else "true"
    changed = model.model_copy(update={field: value})
    yield f"model.{field}={shown}", recipe.model_copy(update={"model": changed})


def _fewer_pixels(recipe: TrainingRecipe) -> Iterator[tuple[str, TrainingRecipe]]:
    """A half and a quarter of the limit, which `with_pixel_limit` has made that of the largest sample."""
    if recipe.model.max_pixels is None:
        return
    for share in (2, 4):
        pixels = recipe.model.max_pixels // share
        if pixels >= (recipe.model.min_pixels or 1):
            model = recipe.model.model_copy(update={"max_pixels": pixels})
            yield f"model.max_pixels={pixels}", recipe.model_copy(update={"model": model})


def _no_penalty(recipe: GrpoRecipe) -> Iterator[tuple[str, GrpoRecipe]]:
    if recipe.beta > 0:
        yield "beta=0", recipe.model_copy(update={"beta": 0.0})


def with_pixel_limit(recipe: TrainingRecipe, found: Scan, of: Outline) -> TrainingRecipe:
    """The same recipe with `max_pixels` written out: the pixels of the largest image, as the model sees it."""
    side = of.image_processor.patch_size
    seen = [high * wide * side**2 for high, wide in found.prompt.grids]
    if not seen:
        return recipe
    pixels = min(max(seen), recipe.model.max_pixels or max(seen))
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"max_pixels": pixels})})


def peaks(of: Outline, found: Scan, device: torch.device, process: int) -> Callable[[TrainingRecipe], Footprint]:
    """Work out the memory of a recipe on the largest sample, with its images within the recipe's own limit."""

    def of_recipe(recipe: TrainingRecipe) -> Footprint:
        grids = tuple(patch_grid(of, *size, recipe.model.max_pixels) for size in found.sizes)
        return footprint(recipe, of, replace(found.prompt, grids=grids), device, process)

    return of_recipe


# What there is, and how long it takes


def memory_available(device: torch.device) -> int:
    """Bytes that a new process could use: of the GPU, or of RAM (within the control group's limit)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, StopIteration, ValueError):  # another system, or no control group
        return free


def process_memory() -> int:
    """Bytes of RAM that training holds apart from its tensors: what this process holds now, with the same libraries
    loaded, and the parts of them that only training reaches."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return 450_000_000 + KERNELS
    return pages * os.sysconf("SC_PAGE_SIZE") + KERNELS


def disk_needed(recipe: TrainingRecipe, numbers: Parameters) -> int:
    """Bytes of a run's checkpoints in fp32: the training state, while it is replaced the old one too, `best` and
    `final`."""
    kept = numbers.trained if recipe.model.lora is not None else numbers.total
    state = 4 * (kept + 2 * numbers.trained)
    best = 4 * numbers.total if recipe.validate_on is not None and recipe.eval_every else 0
    return 2 * state + best + 4 * numbers.total


def disk_free(folder: Path) -> int:
    """Bytes free where `folder` is or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def matrix_speed(device: torch.device, bf16: bool) -> float:
    """Floating-point operations a second of a large matrix product, measured."""
    size = 4096 if device.type == "cuda" else 1024
    one = torch.ones(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    best = math.inf
    for _ in range(4):
        start = time.perf_counter()
        product = one @ one
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
