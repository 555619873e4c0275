"""Pretraining: a base model made from nothing but rendered scenes and the corpus about them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from cleareyed.errors import InputError
from cleareyed.models.build import new_vlm
from cleareyed.models.save import replace_folder, save_vlm, settle_folder
from cleareyed.models.vlm import VLM
from cleareyed.recipe import PretrainRecipe
from cleareyed.records.run import append_metrics, create_run, open_run, truncate_after
from cleareyed.training.checkpoints import STATE, TrainState, load_checkpoint, save_checkpoint
from cleareyed.training.corpus import STYLES, draw_page
from cleareyed.training.loop import Clock, adamw, learning_rate
from cleareyed.training.observe import Observer
from cleareyed.training.pack import Packed, draw_batch
from cleareyed.training.tokenizer import train_tokenizer

TOKENIZER_PAGES = 3000
"""Scenes whose texts, one of every style, the tokenizer is learnt from."""
LOOK_EVERY = 250
LOOK_IMAGES = 24
EMPTY_WEIGHT = 0.1


def pretrain(recipe: PretrainRecipe, folder: Path, resume: bool, observer: Observer) -> None:
    """Train a new model for `recipe.steps` steps and save it as `folder/final`, in bf16.

    Batches are functions of (seed, step), so a resumed run repeats the undisturbed one. Every LOOK_EVERY steps the
    share of body tokens guessed right is measured by style on scenes of its own.

    Raises:
        InputError: an unknown style in the mixture, a folder that exists, a full disk, a loss that is not finite.
    """
    for name in recipe.mixture:
        if name not in STYLES:
            raise InputError(f"recipe: mixture.{name} is not a style of the corpus; choose from {', '.join(STYLES)}")
    run = open_run(folder) if resume else create_run(folder, recipe)
    kept = folder / "tokenizer"
    settle_folder(kept)
    if not kept.is_dir():  # resuming takes the tokenizer that the run began with, whatever became of the corpus
        learnt = learn_tokenizer(recipe)
        replace_folder(lambda aside: _save(learnt, aside), kept)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(kept)
    vlm = start_vlm(recipe, tokenizer)
    parameters = list(vlm.model.parameters())
    optimizer = adamw(parameters, recipe.optimizer)
    settle_folder(run.checkpoint)
    state = TrainState()
    if resume:
        if (run.checkpoint / STATE).is_file():
            state = load_checkpoint(run.checkpoint, vlm.model, optimizer)
        truncate_after(run, state.step)

    for step in range(state.step + 1, recipe.steps + 1):
        clock = Clock(vlm.device)
        with clock("draw"):
            seed = (recipe.seed, 1, step)
            batch = draw_batch(vlm, recipe.mixture, recipe.images_per_step, recipe.tokens_per_image, seed)
        with clock("update"):
            lr = learning_rate(recipe.optimizer, step, recipe.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad()
            with torch.autocast(vlm.device.type, torch.bfloat16):
                features = image_features(vlm, batch)
                names = names_loss(vlm, batch, features)
                text = text_loss(vlm, batch, features) if step > recipe.vision_steps else names.new_zeros(())
                loss = text + recipe.names_weight * names
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.optimizer.max_grad_norm)
            if not torch.isfinite(norm):
                raise InputError(f"{folder}: the gradient is not finite at step {step}; lower optimizer.lr")
            optimizer.step()
        tokens = int((batch.weights > 0).sum())
        state = TrainState(step, state.samples + batch.turns, state.tokens + tokens)
        metrics = {
            "loss": text.item(),
            "names_loss": names.item(),
            "grad_norm": norm.item(),
            "lr": lr,
            "turns": state.samples,
        }
        if step % LOOK_EVERY == 0 or step == recipe.steps:
            metrics |= look(vlm, recipe)
        row = {"step": step, **metrics, "tokens": state.tokens, **clock.metrics()}
        append_metrics(run, row)
        observer.step(step, recipe.steps, row)
        if step % recipe.save_every == 0 or step == recipe.steps:
            save_checkpoint(run.checkpoint, vlm.model, optimizer, state)
    save_vlm(vlm, run.final, "bf16")


def learn_tokenizer(recipe: PretrainRecipe) -> PreTrainedTokenizerFast:
    """The tokenizer of the recipe's corpus."""
    rng = np.random.default_rng([recipe.seed, 0, 0])
    texts = []
    for _ in range(TOKENIZER_PAGES):
        page = draw_page(rng)
        turns = [style(rng, page) for name, style in STYLES.items() if name in recipe.mixture]
        texts += [turn.lead + turn.body for turn in turns]
    return train_tokenizer(texts, recipe.shape.vocab)


def _save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    tokenizer.save_pretrained(folder)


def start_vlm(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerFast) -> VLM:
    """The random model that the recipe starts from."""
    return new_vlm(recipe.shape, tokenizer, recipe.seed)


def image_features(vlm: VLM, batch: Packed) -> torch.Tensor:
    """What the language model is given for the batch's images: (image tokens, D)."""
    model: Any = vlm.model
    return torch.cat(tuple(model.get_image_features(batch.pixels, batch.grid, return_dict=True).pooler_output))


def body_logits(vlm: VLM, batch: Packed, features: torch.Tensor) -> torch.Tensor:
    """Logits (M, V) fp32 at the M positions of the batch whose weight is not 0."""
    model: Any = vlm.model
    embeds = model.get_input_embeddings()(batch.ids)  # (B, T, D)
    places = (batch.ids == vlm.image_token_id)[..., None]  # (B, T, 1)
    states = model.model.language_model(
        inputs_embeds=embeds.masked_scatter(places, features.to(embeds.dtype)),
        attention_mask={"full_attention": batch.visible},
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state  # (B, T, D)
    logits: torch.Tensor = model.lm_head(states[batch.weights > 0])
    return logits.float()


def text_loss(vlm: VLM, batch: Packed, features: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (nats) over the batch's tokens, weighted mean."""
    counted = batch.weights > 0
    logits = body_logits(vlm, batch, features)
    losses = torch.nn.functional.cross_entropy(logits, batch.targets[counted], reduction="none")
    weights = batch.weights[counted]
    return (losses * weights).sum() / weights.sum()


def names_loss(vlm: VLM, batch: Packed, features: torch.Tensor) -> torch.Tensor:
    """Each image token, read through the (tied) word embeddings, shall name what stands there, and its place.

    Cross-entropy (nats), mean over the four words; places where nothing stands weigh EMPTY_WEIGHT.
    """
    model: Any = vlm.model
    logprobs = torch.log_softmax(model.lm_head(features).float(), dim=1)  # (image tokens, V)
    losses = -logprobs.gather(1, batch.names).mean(dim=1)  # (image tokens,)
    empty = batch.names[:, 0] == vlm.eos_ids[0]
    weights = torch.where(empty, EMPTY_WEIGHT, 1.0)
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def look(vlm: VLM, recipe: PretrainRecipe) -> dict[str, float]:
    """Share of body tokens guessed right, by style, with the true text before each."""
    found: dict[str, float] = {}
    for number, style in enumerate(recipe.mixture):
        batch = draw_batch(vlm, {style: 1.0}, LOOK_IMAGES, recipe.tokens_per_image, (recipe.seed, 2, number))
        counted = batch.weights > 0
        body = batch.weights[counted] == 1.0
        with torch.autocast(vlm.device.type, torch.bfloat16):
            guesses = body_logits(vlm, batch, image_features(vlm, batch)).argmax(dim=1)
        found[f"right/{style}"] = (guesses == batch.targets[counted])[body].float().mean().item()
    return found
