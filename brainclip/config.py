"""Recipes: one frozen dataclass per stage, read from one TOML file with a table per stage.

Every number the training depends on is here, so a run folder (which holds the recipe as resolved) can be
run again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainclip.config_pairs import AugmentRecipe, PairsRecipe, SimulateRecipe
from brainclip.errors import RecipeError

R = typing.TypeVar("R")


@dataclass(frozen=True)
class TrainingRecipe:
    """What every training stage shares. Rate: linear warm-up, constant, linear decay at the end."""

    mix: dict[str, float] = field(
        default_factory=lambda: {"simulated": 1.0}
    )  # pairs table -> share of each batch
    slices: int = 0  # of each table, a nested and balanced choice; 0: all
    steps: int = 1000
    batch: int = 32
    rate: float = 1e-3
    warmup: int = 100
    decay: int = 0
    weight_decay: float = 0.01
    optimizer: str = "adamw"  # or adamw8bit, adafactor, prodigy, dadaptation, each with its package
    clip_norm: float = 1.0
    ema: float = 0.995  # 0.999 is too slow for runs of a thousand steps
    precision: str = "no"  # "no", "bf16" or "fp16", as accelerate names them
    device: str = "auto"  # "auto": what accelerate finds; "cpu"
    piece: int = 0  # rows of a batch computed at a time, 0: all; the same sums in less memory
    shard: bool = False  # split weights and optimizer among processes (FSDP): for what no GPU holds alone
    track: tuple[str, ...] = ()  # besides log.jsonl: "tensorboard", "trackio", "wandb", each with its package
    save_every: int = 200
    sample_every: int = 0
    seed: int = 0


@dataclass(frozen=True)
class ClipRecipe(TrainingRecipe):
    """CLIP: two small open_clip towers from scratch, or those of `start` or `base`, all or part of them.

    base: an open_clip name with its pretrained tag ("ViT-B-32/laion2b_s34b_b79k"), "hf-hub:ORG/MODEL" or
    "local-dir:FOLDER" as open_clip means them, or "transformers:FOLDER" (or a hub id).
    train: "full"; "blocks", the last `blocks` of each tower with what follows them; "lora", of `rank` and
    `alpha` on the attention and MLP layers; or "projection". The logit scale trains always.
    """

    start: str = ""  # clip folder written by brainclip to go on from
    base: str = ""  # other CLIP to begin with; empty, without start: random weights
    image_size: tuple[int, ...] = ()  # height, width; empty: the base's own, or the pairs' size
    train: str = "full"
    blocks: int = 2
    rank: int = 16
    alpha: int = 16
    locked: str = ""  # "image" or "text": the tower that keeps its weights (Zhai et al. 2022)
    alike: float = 0.0  # share of each batch in groups that only the person tells apart
    loss: str = "multi-positive"  # all true captions are positives; or "clip", "siglip"
    age: float = 0.0  # weight of reading the age, along one direction, from both embeddings
    vocabulary: int = 2048
    context: int = 77
    embedding: int = 192
    patch: int = 16
    vision_width: int = 192
    vision_layers: int = 6
    text_width: int = 192
    text_layers: int = 4
    head_width: int = 64
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)


@dataclass(frozen=True)
class VaeRecipe(TrainingRecipe):
    """Autoencoder: closed-form patch encoder, learned residual decoder; or a published one, adapted."""

    base: str = ""  # folder or hub id with an AutoencoderKL to adapt; empty: our own
    train: str = "decoder"  # of that: "decoder" (its latents stay as they are) or "all"
    patch: int = 8
    latents: int = 16
    widths: tuple[int, ...] = (128, 96, 48)
    blocks: int = 2
    whiten: float = 0.5
    noise: float = 0.2
    crop: int = 64
    basis_slices: int = 4000


@dataclass(frozen=True)
class PriorRecipe(TrainingRecipe):
    """Diffusion prior from text embedding to image embedding."""

    base: str = ""  # pretrained prior, a folder or hub id in Kandinsky 2.2's layout; empty: none
    start: str = ""  # prior folder to go on from, of whatever CLIP; empty: random weights, or `base`
    train: str = "full"  # or "lora": low-rank additions to the attention of `base` or `start` alone
    rank: int = 16  # of the LoRA
    alpha: int = 16
    min_snr: float = 0.0  # gamma of the weights of noise levels (Hang et al. 2023); 0: all weigh 1
    age: float = 0.0  # weight of the error along the direction in which the CLIP shows the age
    layers: int = 4
    heads: int = 3
    head_width: int = 64
    caption_dropout: float = 0.1
    timesteps: int = 1000
    sampling_steps: int = 10
    guidance: float = 1.5
    age_guidance: float = 0.0  # along the direction in which the CLIP shows the age; 0: as `guidance`
    candidates: int = 1  # image embeddings drawn for a picture, of which the nearest to the text is decoded
    restate: bool = True  # what a prompt asks for is put into a training wording before it is embedded


@dataclass(frozen=True)
class DenoisingRecipe(TrainingRecipe):
    """What a decoder and its adapters have in common: how noise is added, and what its errors weigh."""

    embedding_dropout: float = 0.1
    min_snr: float = 0.0  # gamma of Hang et al. 2023, usually 5; 0: every noise level weighs the same
    offset_noise: float = 0.0  # standard deviation of noise that a whole channel shares, usually 0.05 to 0.1
    pyramid_noise: float = 0.0  # share that each coarser resolution adds to the noise, usually 0.3 to 0.8
    cache: bool = False  # latents of all slices are computed once, into <folder>/latents, by all processes
    checkpointing: bool = False  # activations are computed again for the gradient: less memory, more time


@dataclass(frozen=True)
class DecoderRecipe(DenoisingRecipe):
    """Latent diffusion decoder conditioned on the image embedding: mini from scratch, or a published base."""

    start: str = ""  # decoder folder to go on from, of whatever CLIP; empty: random weights
    base: str = ""  # folder or hub id of Kandinsky 2.2's decoder, Stable Diffusion or SDXL; empty: mini
    train: str = "full"  # of a base: "full", or "projection", which leaves its UNet as it is
    project: bool = True  # false: Kandinsky's UNet is fed the embedding of its own CLIP as it is
    tokens: int = 8  # that the image embedding becomes for the cross-attention of Stable Diffusion
    text: bool = False  # Stable Diffusion's text encoder reads the slice's caption as well
    size: int = 0  # pixels along a side to which a base gets slices resized; 0: as they are
    objective: str = ""  # flow, epsilon, v_prediction or sample; empty: the base's own, flow for mini
    sampler: str = ""  # as brainclip.schedules names them; empty: euler for the flow, ddim for the others
    zero_terminal_snr: bool = False  # the noisiest level is noise alone (Lin et al. 2024)
    channels: tuple[int, ...] = (64, 96, 192)
    layers: int = 1
    head_width: int = 32
    groups: int = 16
    expected_width: int = 128
    sampling_steps: int = 12
    guidance: float = 1.5


@dataclass(frozen=True)
class AdapterRecipe(DenoisingRecipe):
    """LoRA on the decoder's attention layers (and on the expected-latents network, when `expected`; on the
    attention of the text encoders, when `text`)."""

    rank: int = 16
    alpha: int = 16
    # layers of the UNet: "cross-attention", "attention", "feed-forward", or ends of their names
    targets: tuple[str, ...] = ("cross-attention",)
    expected: bool = True
    text: bool = False  # of a decoder with text = true, with the same rank and alpha
    text_rate: float = 5e-5  # of the text encoders' layers; usually below the UNet's `rate`
    modalities: tuple[str, ...] = (
        "T1",
    )  # generate() prefers this adapter for these contrasts when default is true
    default: bool = False


@dataclass(frozen=True)
class InversionRecipe(DenoisingRecipe):
    """A new word for a decoder with text = true: only its embeddings are trained (textual inversion)."""

    token: str = ""  # by which captions and prompts name it, such as "<clinic>"
    word: str = "brain"  # a single token of the base, whose embedding it begins with
    vectors: int = 1  # embeddings, and so tokens of the 77, that it takes


@dataclass(frozen=True)
class PixelRecipe(TrainingRecipe):
    """Unconditional diffusion of whole slices, to compare the latent chain with."""

    model: str = "unet-small"  # a name in brainclip.pixel_sizes.MODELS
    sampling_steps: int = 80


@dataclass(frozen=True)
class JudgeRecipe(TrainingRecipe):
    """The independent judge of the evaluation: a small convolutional network, never the model's CLIP."""

    width: int = 32


@dataclass(frozen=True)
class SegmenterRecipe(TrainingRecipe):
    """The evaluation's segmenter of tissues, trained on the tables in `mix`; none when that is empty.

    labels: pairs table -> how the ids of its masks are named (atlas/tables/tissues.tsv), where masks are
    label maps; tables of simulated people have true labels. people: of each table and split, at most.
    """

    mix: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    people: int = 24
    channels: tuple[int, ...] = (16, 32, 64, 96)


@dataclass(frozen=True)
class EvaluateRecipe:
    """What the evaluation takes besides the model: weight files of Inception v3 for further features."""

    inception: str = ""  # ImageNet's, a state dict of torchvision; empty: left out
    radimagenet: str = ""  # RadImageNet's, .h5 of Keras or .pt of torch; empty: left out
    memorisation: str = ""  # folder of `brainclip memorisation` on this model, to be shown in the report
    radiomics: bool = False  # texture by pyradiomics as well, 0.5 s a slice


@dataclass(frozen=True)
class Recipe:
    """A whole model: every stage from cohort to evaluation. `folder` holds all that it makes."""

    name: str = "mini"
    folder: str = "runs/mini"
    size: int = 128
    spacing_mm: float = 1.5
    simulate: SimulateRecipe = field(default_factory=SimulateRecipe)
    pairs: dict[str, PairsRecipe] = field(default_factory=dict)
    clip: ClipRecipe = field(default_factory=ClipRecipe)
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    prior: PriorRecipe = field(default_factory=PriorRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)
    adapter: dict[str, AdapterRecipe] = field(default_factory=dict)
    inversion: dict[str, InversionRecipe] = field(default_factory=dict)
    judge: JudgeRecipe = field(default_factory=JudgeRecipe)
    segmenter: SegmenterRecipe = field(default_factory=SegmenterRecipe)
    pixel: PixelRecipe = field(default_factory=PixelRecipe)
    evaluate: EvaluateRecipe = field(default_factory=EvaluateRecipe)

    def pairs_folder(self, name: str) -> Path:
        """The folder of the pairs table `name`. RecipeError when there is no such table."""
        if name not in self.pairs:
            raise RecipeError(
                f"recipe {self.name!r} has no table [pairs.{name}]; it has: {', '.join(self.pairs) or 'none'}"
            )
        return Path(self.folder) / "pairs" / name


def load_recipe(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """The recipe of a model in a TOML file, as read_recipe reads it."""
    return read_recipe(Recipe, path, overrides)


def read_recipe(kind: type[R], path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> R:
    """A recipe dataclass from a TOML file, with `overrides` such as "clip.steps=10" applied.

    Raises RecipeError for an unreadable file, an unknown key, or a value of the wrong type.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(
            f"{path}: no such recipe; the bundled ones are recipes/tiny.toml and recipes/mini.toml"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: not a readable TOML file: {error}") from None
    for text in overrides:
        _override(table, text)
    return typing.cast(R, _build(kind, table, str(path), ""))


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"--set {text!r}: expected key=value, for example clip.steps=10")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {text!r}: {parent!r} is not a table")
    table[last] = parsed


def _build(kind: type[Any], value: Any, path: str, where: str) -> Any:
    """A dataclass of the given kind from a TOML table, every key and type checked."""
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: [{where}] should be a table, not {value!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        place = f" in [{where}]" if where else ""
        raise RecipeError(f"{path}: unknown key {unknown[0]!r}{place}; known keys: {', '.join(hints)}")
    return kind(
        **{key: _convert(hints[key], item, path, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    )


def _convert(hint: Any, value: Any, path: str, where: str) -> Any:
    """`value` as the hinted type: a dataclass, a dict of them, a tuple, or a plain value."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path, where)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], item, path, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, path, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = isinstance(hint, type) and not isinstance(hint, types.GenericAlias)
    if plain and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = hint.__name__ if plain else str(hint)
    raise RecipeError(f"{path}: {where} = {value!r} should be of type {name}")


def as_dict(recipe: Any) -> dict[str, Any]:
    """A recipe as plain JSON types, tuples as lists."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(recipe))))


def digest(value: Any) -> str:
    """A short stable hash (16 hex digits) of plain JSON types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
