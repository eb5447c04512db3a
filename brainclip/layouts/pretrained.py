"""Pretrained: what the layouts of published models have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from brainclip.clip import Clip
from brainclip.config import DecoderRecipe
from brainclip.errors import RecipeError, WeightsError
from brainclip.layouts.layout import SCALE, LatentScale, Layout, read_scale, scale_of
from brainclip.layouts.parts import read_part
from brainclip.layouts.projection import EmbeddingProjection, TokenProjection, Unwhitening
from brainclip.layouts.text import Tokenizers, read_text_encoders, tokenizer_of
from brainclip.weights import read_json, write_json

INDEX = "model_index.json"
PROJECTIONS = {kind.__name__: kind for kind in (EmbeddingProjection, TokenProjection, Unwhitening)}


class Pretrained(Layout):
    """A published UNet and autoencoder, a projection of our image embedding, and perhaps a text path.

    Saved, it is the base's layout again, beside it projection/ and latents.safetensors. Text encoders are
    kept where captions are used; elsewhere model_index.json says that there are none.
    """

    vae_class: Any
    text_encoders: tuple[str, ...] = ()  # folders of those that may be there

    def __init__(
        self, parts: dict[str, Any], *, size: int, decoded: int, index: dict[str, Any], folder: Path
    ) -> None:
        super().__init__(parts, size=size, decoded=decoded)
        channels = parts[self.autoencoder].config["latent_channels"]
        if parts["unet"].config["in_channels"] != channels:
            raise WeightsError(
                f"{folder}: its UNet takes {parts['unet'].config['in_channels']} channels and its "
                f"autoencoder has {channels}; bases for inpainting or editing cannot be used"
            )
        self.index = index
        self.text = tuple(name for name in self.text_encoders if name in parts)
        self.lora = ("unet", *self.text)
        self.tokenizers = (
            Tokenizers(folder, [tokenizer_of(name) for name in self.text]) if self.text else None
        )

    @classmethod
    def fits(cls, classes: Mapping[str, str], unet: Mapping[str, Any]) -> bool:
        """Whether parts of these classes and a UNet of this configuration are of this kind."""
        raise NotImplementedError

    @classmethod
    def projection(cls, recipe: DecoderRecipe, clip: Clip, unet: Mapping[str, Any]) -> Any:
        """A fresh projection of this CLIP's embeddings for a UNet of this configuration."""
        raise NotImplementedError

    @classmethod
    def scale(cls, vae: Any) -> LatentScale:
        """The scale of latents that the published UNet knows."""
        return scale_of(vae)

    @classmethod
    def begin(cls, folder: Path, recipe: DecoderRecipe, clip: Clip, *, size: int, vae: Any) -> Pretrained:
        """The published parts with a fresh projection. vae: the autoencoder to use, None: the base's own."""
        index = read_json(folder / INDEX)
        if (folder / "contract.json").is_file():
            raise RecipeError(
                f"decoder.base = {recipe.base!r}: a decoder of an earlier run; give it as start"
            )
        if recipe.text and not cls.text_encoders:
            raise RecipeError(f"decoder.text: {cls.title} takes no captions; leave it out")
        if vae is not None and not isinstance(vae, cls.vae_class):
            raise RecipeError(
                f"vae.base: {cls.title} decodes with its own {cls.vae_class.__name__}, not with an "
                f"{type(vae).__name__}; leave [vae] base out"
            )
        parts = {"unet": read_part(UNet2DConditionModel, folder / "unet")}
        parts[cls.autoencoder] = read_part(cls.vae_class, folder / cls.autoencoder) if vae is None else vae
        parts["projection"] = cls.projection(recipe, clip, parts["unet"].config)
        parts["scale"] = cls.scale(parts[cls.autoencoder])
        if recipe.text:
            parts |= read_text_encoders(folder, index, cls.text_encoders)
        return cls(parts, size=size, decoded=recipe.size, index=index, folder=folder)

    @classmethod
    def load(cls, folder: Path, contract: dict[str, Any]) -> Pretrained:
        """As it was saved, strictly."""
        index = read_json(folder / INDEX)
        parts = {"unet": read_part(UNet2DConditionModel, folder / "unet")}
        parts[cls.autoencoder] = read_part(cls.vae_class, folder / cls.autoencoder)
        kind = PROJECTIONS[read_json(folder / "projection" / "config.json")["_class_name"]]
        parts["projection"] = read_part(kind, folder / "projection")
        parts["scale"] = read_scale(folder, parts[cls.autoencoder].config["latent_channels"])
        if any(index.get(name, [None])[0] for name in cls.text_encoders):
            parts |= read_text_encoders(folder, index, cls.text_encoders)
        return cls(parts, size=contract["size"], decoded=contract["decoded"], index=index, folder=folder)

    @staticmethod
    def files(folder: Path) -> tuple[str, ...]:
        """What one saved in `folder` consists of."""
        index = read_json(folder / INDEX)
        parts = [name for name, found in index.items() if isinstance(found, list) and found[0]]
        return (*(name for name in parts if name != "scheduler"), "projection", SCALE, INDEX)

    def contract(self) -> dict[str, Any]:
        return {"size": self.size, "decoded": self.decoded}

    def save(self, folder: Path, scheduler: Any, *, dtype: Any) -> None:
        super().save(folder, scheduler, dtype=dtype)
        kept = {*self.parts, "scheduler"}
        if self.tokenizers:
            self.tokenizers.save(folder)
            kept |= set(self.tokenizers.all)
        index = {
            name: [None, None] if isinstance(found, list) and name not in kept else found
            for name, found in self.index.items()
        }
        write_json(folder / INDEX, index | {"scheduler": ["diffusers", type(scheduler).__name__]})

    def tokens(self, captions: Sequence[str]) -> dict[str, Tensor]:
        return self.tokenizers(captions) if self.tokenizers else {}
