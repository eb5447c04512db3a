"""Kandinsky 2.2's decoder: a UNet that takes an image embedding, over the latents of a MOVQ autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models.autoencoders.vq_model import VQModel
from torch import Tensor

from brainclip.clip import Clip
from brainclip.config import DecoderRecipe
from brainclip.errors import RecipeError
from brainclip.layouts.layout import LatentScale
from brainclip.layouts.pretrained import Pretrained
from brainclip.layouts.projection import EmbeddingProjection, Unwhitening


class Kandinsky(Pretrained):
    """The image embedding is all its UNet is given: of its own CLIP as it is, of another by a trained
    projection."""

    title = "Kandinsky 2.2's decoder"
    autoencoder = "movq"
    vae_class = VQModel

    @classmethod
    def fits(cls, classes: Mapping[str, str], unet: Mapping[str, Any]) -> bool:
        parts = (classes.get("unet"), classes.get("movq")) == ("UNet2DConditionModel", "VQModel")
        takes = (unet.get("encoder_hid_dim_type"), unet.get("addition_embed_type"))
        return parts and takes == ("image_proj", "image")

    @classmethod
    def projection(cls, recipe: DecoderRecipe, clip: Clip, unet: Mapping[str, Any]) -> Any:
        embedding, width = len(clip.embedding_mean), unet["encoder_hid_dim"]
        if recipe.project:
            return EmbeddingProjection(embedding, width)
        if embedding != width:
            raise RecipeError(
                f"decoder.project = false: this CLIP's embeddings have {embedding} numbers, the UNet of "
                f"the base takes {width}; give project = true, or the base's own CLIP"
            )
        projection = Unwhitening(embedding)
        projection.set_whitening(clip.embedding_mean, clip.embedding_std)
        return projection

    @classmethod
    def scale(cls, vae: Any) -> LatentScale:
        """None: the UNet was trained on MOVQ's latents as they are, and diffusers' pipeline decodes them
        so."""
        return LatentScale(vae.config["latent_channels"])

    def decode(self, latents: Tensor) -> Tensor:
        """Without the codebook, as diffusers' pipeline does."""
        return self.parts["movq"].decode(latents, force_not_quantize=True).sample

    def conditions(self, whitened: Tensor, **tokens: Tensor) -> dict[str, Tensor]:
        return {"image_embeds": self.parts["projection"](whitened.to(self.device))}

    def predict(self, noisy: Tensor, time: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        """The UNet's second half of channels, the variance that it also predicts, is left out."""
        answer = self.parts["unet"](noisy, time, None, added_cond_kwargs=conditions).sample
        return answer[:, : noisy.shape[1]]
