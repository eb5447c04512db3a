"""A pretrained prior in the layout of Kandinsky 2.2's: transformer, scheduler, length of its texts.

model_index.json, prior/ (PriorTransformer with clip_mean and clip_std), scheduler/ (UnCLIPScheduler),
text_encoder/, tokenizer/, image_encoder/, image_processor/, as KandinskyV22PriorPipeline saves them. The last
two are not read. Its unconditional text is the empty prompt, as ours is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.prior_transformer import PriorTransformer
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from brainclip.errors import WeightsError
from brainclip.weights import DIFFUSERS_WEIGHTS, load_weights, read_json

READ = ("model_index.json", "prior/*", "scheduler/*", "text_encoder/*", "tokenizer/*")
WEIGHTS = f"prior/{DIFFUSERS_WEIGHTS}"


def base_folder(base: str) -> Path:
    """The folder of a pretrained prior: `base` itself, or the files of that hub id, fetched.

    WeightsError where it is neither, or holds something else.
    """
    folder = Path(base)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(base, allow_patterns=list(READ)))
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"prior.base = {base!r}: neither a folder nor a hub id that can be reached ({error})"
            ) from None
    found = read_json(folder / "model_index.json").get("prior")
    if found != ["diffusers", "PriorTransformer"]:
        raise WeightsError(
            f"{folder}: its model_index.json names {found} as prior; a folder in the layout of "
            "kandinsky-community/kandinsky-2-2-prior has a PriorTransformer"
        )
    return folder


def read_transformer(folder: Path) -> PriorTransformer:
    """The PriorTransformer saved in `folder`, float32. WeightsError for a missing key or a clip_std of 0."""
    transformer = PriorTransformer.from_config(read_json(folder / "config.json"))
    load_weights(transformer, folder / DIFFUSERS_WEIGHTS)
    if not bool((transformer.clip_std > 0).all()):
        raise WeightsError(f"{folder}: clip_std is 0; the prior would decode everything to 0")
    return transformer


def check_widths(folder: Path, transformer: PriorTransformer, wanted: dict[str, int]) -> None:
    """WeightsError for a prior that was made for a CLIP of other widths than `wanted`, by their names in its
    config."""
    for key, width in wanted.items():
        found = transformer.config[key] or transformer.config["embedding_dim"]
        if found != width:
            raise WeightsError(f"{folder}: this prior has {key} {found}, the recipe's CLIP {width}")


def read_scheduler(path: Path) -> DDIMScheduler:
    """The DDIM sampler of the process that an UnCLIPScheduler's config in `path` describes.

    diffusers is giving that class up. Noise levels, what is predicted and its bounds are the same; sampling
    takes DDIM's steps without noise in place of those with it. WeightsError for what our Prior does not do:
    predicting noise, or a variance.
    """
    config = read_json(path)
    wanted = {
        "prediction_type": "sample",
        "variance_type": "fixed_small_log",
        "beta_schedule": "squaredcos_cap_v2",
    }
    for key, value in wanted.items():
        # the oldest files leave the one schedule unsaid
        found = config.get(key, value if key == "beta_schedule" else None)
        if found != value:
            raise WeightsError(f"{path}: {key} {found!r}, a prior is read with {value!r}")
    try:
        return new_scheduler(
            config["num_train_timesteps"],
            clip_range=float(config["clip_sample_range"]) if config["clip_sample"] else None,
        )
    except KeyError as error:
        raise WeightsError(f"{path}: key {error} is missing; is it an UnCLIPScheduler's?") from None


def new_scheduler(timesteps: int, *, clip_range: float | None = None) -> DDIMScheduler:
    """The noise levels and the sampler of a prior that predicts the clean embedding.

    clip_range: bound of its whitened values; None: none, for they exceed +-1.
    """
    return DDIMScheduler(
        num_train_timesteps=timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=clip_range is not None,
        clip_sample_range=clip_range or 1.0,
        timestep_spacing="trailing",
    )


@torch.no_grad()
def text_length(folder: Path, texts: Sequence[str]) -> float:
    """The mean length of the embeddings that a pretrained prior's own text encoder gives for these texts.

    Kandinsky's prior was trained on embeddings as the towers give them; ours are of unit length.
    """
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        encoder, report = CLIPTextModelWithProjection.from_pretrained(
            folder / "text_encoder", output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder}: its text_encoder or tokenizer cannot be read ({error})") from None
    if report["missing_keys"]:
        first = sorted(report["missing_keys"])[0]
        raise WeightsError(f"{folder / 'text_encoder'}: keys missing, first {first!r}")
    options: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    tokens = tokenizer(list(texts), max_length=encoder.config.max_position_embeddings, **options)
    return float(encoder.eval()(**tokens).text_embeds.norm(dim=1).mean())
