"""Decoder: whitened image embedding to picture, by diffusion in an autoencoder's latents, over any layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainclip.clip import Clip
from brainclip.config import AdapterRecipe, DecoderRecipe, InversionRecipe
from brainclip.errors import BrainclipError, RecipeError, WeightsError
from brainclip.inversion import read_vectors, write_vectors
from brainclip.layouts import Layout, base_folder, load_layout, new_layout
from brainclip.lora import WEIGHTS, adapter_weights, add_lora, attached, load_lora, save_lora, use_lora
from brainclip.schedules import denoised, load_scheduler, new_scheduler
from brainclip.weights import DIFFUSERS_WEIGHTS, hash_file, load_weights, read_json, save_weights, write_json

PROJECTION = "projection"


class Decoder(nn.Module):
    """Pictures for whitened image embeddings.

    layout: what its network is and how it is fed; its parts are this module's. scheduler: of diffusers; says
    what the network predicts, and takes the noise away. contract: hash of the CLIP whose embeddings it was
    trained on. hash: of the UNet's weights, the base of its adapters.
    """

    def __init__(self, layout: Layout, scheduler: Any, contract: dict[str, Any]) -> None:
        super().__init__()
        self.layout, self.scheduler = layout, scheduler
        for name, part in layout.parts.items():
            self.add_module(name, part)
        self.contract = contract | layout.contract()
        self.adapters: dict[str, dict[str, Any]] = {}
        self.inversions: dict[str, dict[str, Any]] = {}
        self.tokens: set[str] = set()  # new ones that captions may hold
        self.own_projection: dict[str, Tensor] = {}  # the base's, while an adapter's is in its place
        self.hash = ""

    @classmethod
    def new(cls, recipe: DecoderRecipe, clip: Clip, vae: Any = None, *, size: int = 0) -> Decoder:
        """A decoder as a recipe begins it, for the embeddings of this CLIP.

        Mini has random weights over the trained autoencoder `vae`; a base its published ones and a fresh
        projection, over its own autoencoder when `vae` is None. size: pixels along a side of a slice; 0: the
        autoencoder's.
        """
        folder = base_folder(recipe.base) if recipe.base else None
        published = load_scheduler(folder / "scheduler") if folder else None
        layout = new_layout(recipe, clip, vae, folder=folder, size=size)
        return cls(layout, new_scheduler(recipe, published), {"clip": clip.hash})

    @classmethod
    def load(cls, folder: Path, clip: Clip, *, retrain: bool = False) -> Decoder:
        """The decoder saved in `folder`, its adapters and new tokens found but not in use.

        WeightsError for one trained with another CLIP, or missing keys.
        retrain: take it whatever CLIP it was trained with, without adapters, to train it further.
        """
        contract = read_json(folder / "contract.json")
        if contract["clip"] != clip.hash and not retrain:
            raise WeightsError(
                f"{folder}: this decoder was trained with CLIP {contract['clip']}, not with CLIP {clip.hash}"
            )
        layout, scheduler = load_layout(folder, contract), load_scheduler(folder / "scheduler")
        if retrain:
            return cls(layout, scheduler, contract | {"clip": clip.hash}).eval()
        decoder = cls(layout, scheduler, contract)
        decoder.hash = hash_file(folder / "unet" / DIFFUSERS_WEIGHTS)
        for path in sorted(folder.glob("adapters/*/adapter.json")):
            decoder.adapters[path.parent.name] = read_json(path) | {"folder": path.parent}
        for path in sorted(folder.glob("inversions/*/inversion.json")):
            decoder.inversions[path.parent.name] = read_json(path) | {"folder": path.parent}
        return decoder.eval()

    def save(self, folder: Path, *, dtype: torch.dtype | None = torch.float16) -> None:
        """Write the base decoder: each part loads with its own from_pretrained; contract.json last."""
        self.layout.save(folder, self.scheduler, dtype=dtype)
        write_json(folder / "contract.json", self.contract)

    def add_adapter(self, name: str, recipe: AdapterRecipe) -> None:
        """Attach fresh LoRA layers (peft) to the UNet and, if asked, to the expected latents or the text
        encoders; the projection of a pretrained base is trained with them.

        RecipeError where text is asked of a decoder that reads none.
        """
        layout, networks = self.layout, self.layout.networks()
        if recipe.text and not layout.text:
            raise RecipeError(
                f"adapter.{name}.text = true: this decoder has no text path; leave it out, or train "
                "the decoder with a Stable Diffusion as base and decoder.text = true"
            )
        self.requires_grad_(False)
        add_lora(networks["unet"], name, recipe, recipe.targets)
        if recipe.expected and "expected" in networks:
            layers = [
                key
                for key, part in networks["expected"].named_modules()
                if isinstance(part, (nn.Linear, nn.Conv2d))
            ]
            add_lora(networks["expected"], name, recipe, layers)
        for encoder in layout.text if recipe.text else ():
            add_lora(networks[encoder], name, recipe, layout.text_layers(encoder))
        if PROJECTION in layout.parts:
            layout.parts[PROJECTION].requires_grad_(True)

    def save_adapter(self, name: str, folder: Path, facts: dict[str, Any]) -> None:
        """Write the LoRA weights in diffusers' form (load_lora_adapter reads them); adapter.json last."""
        for part_name, part in self.layout.networks().items():
            if name in attached(part):
                save_lora(part, name, folder / part_name)
        if PROJECTION in self.layout.parts:
            save_weights(self.layout.parts[PROJECTION], folder / PROJECTION / DIFFUSERS_WEIGHTS, dtype=None)
        write_json(folder / "adapter.json", facts)

    def use_adapter(self, adapter: str | Mapping[str, float] | None) -> None:
        """Make one adapter active, several with a weight each, or none.

        WeightsError for an unknown name, one made for another base, a weight that is not finite, and two that
        have a projection each.
        """
        weights, networks = adapter_weights(adapter), self.layout.networks()
        for name in weights:
            self._check("adapter", name, self.adapters)
            for path in sorted(self.adapters[name]["folder"].glob(f"*/{WEIGHTS}")):
                if path.parent.name not in networks:
                    raise WeightsError(
                        f"adapter {name!r} has a LoRA of {path.parent.name}, and this decoder has the parts "
                        f"{', '.join(networks)}; was it trained with decoder.text = true?"
                    )
        projected = [name for name in weights if (self.adapters[name]["folder"] / PROJECTION).is_dir()]
        if len(projected) > 1:
            raise WeightsError(
                f"adapters {' and '.join(map(repr, projected))} have a projection of the image embedding "
                "each, and there is room for one; give one of them alone"
            )
        for part_name, part in networks.items():
            for name in weights:
                folder = self.adapters[name]["folder"] / part_name
                if folder.is_dir() and name not in attached(part):  # a part without one has no LoRA
                    load_lora(part, name, folder)
            use_lora(part, {name: weight for name, weight in weights.items() if name in attached(part)})
        if PROJECTION in self.layout.parts:
            self._use_projection(projected[0] if projected else None)

    def add_inversion(self, name: str, recipe: InversionRecipe) -> None:
        """Let captions hold the token of a recipe, the embeddings of which alone are to be trained.

        RecipeError for a decoder that reads no text, and a word that is not a single token.
        """
        if not self.layout.text:
            raise RecipeError(
                f"inversion.{name}: this decoder has no text path; train one with a Stable Diffusion as base "
                "and decoder.text = true"
            )
        rows = self.layout.word_vectors(recipe.word)
        self.layout.add_token(
            recipe.token, {part: row.detach().repeat(recipe.vectors, 1) for part, row in rows.items()}
        )
        self.requires_grad_(False)
        for part in self.layout.text:
            self.layout.parts[part].get_input_embeddings().learned.requires_grad_(True)

    def save_inversion(self, token: str, folder: Path, facts: dict[str, Any]) -> None:
        """Write a token's embeddings in diffusers' form; inversion.json last."""
        write_vectors(folder, token, self.layout.token_vectors(token))
        write_json(folder / "inversion.json", facts | {"token": token})

    def use_inversion(self, name: str) -> None:
        """Let captions hold the token of an inversion. WeightsError for one of another base."""
        self._check("inversion", name, self.inversions)
        facts, layout = self.inversions[name], self.layout
        if not layout.text:
            raise WeightsError(
                f"inversion {name!r}: this decoder has no text path that reads {facts['token']}"
            )
        if facts["token"] not in self.tokens:
            widths = {part: layout.parts[part].config.hidden_size for part in layout.text}
            layout.add_token(facts["token"], read_vectors(facts["folder"], facts["token"], widths))
            self.tokens.add(facts["token"])

    def _check(self, kind: str, name: str, found: Mapping[str, dict[str, Any]]) -> None:
        """WeightsError unless there is an adapter or inversion of this name, made for this base."""
        if name not in found:
            raise WeightsError(f"no {kind} {name!r} in this model; it has: {', '.join(found) or 'none'}")
        base = found[name]["base"]
        if base != self.hash:
            raise WeightsError(
                f"{kind} {name!r} was trained on the decoder {base}, this model's decoder is {self.hash}"
            )

    def _use_projection(self, name: str | None) -> None:
        """Put an adapter's projection into place, or the base's own."""
        part = self.layout.parts[PROJECTION]
        if not self.own_projection:
            self.own_projection = {key: value.clone() for key, value in part.state_dict().items()}
        if name is not None:
            load_weights(part, self.adapters[name]["folder"] / PROJECTION / DIFFUSERS_WEIGHTS)
        else:
            part.load_state_dict(self.own_projection)

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """(B, C, h, w) the noise that a picture of each seed begins with."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([torch.randn(self.layout.shape, generator=one) for one in generators])

    @torch.no_grad()
    def sample(
        self,
        whitened: Tensor,
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        captions: Sequence[str] | None = None,
        noise: Tensor | None = None,
        start: Tensor | None = None,
        strength: float = 1.0,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Grey images (B, 1, H, W) in [0, 1], on the CPU, one per whitened embedding (B, D) and seed.

        Picture k depends on its own embedding, caption and seed alone. guidance: 1 follows the embedding as
        trained. captions: for a decoder trained with text; None: without. noise: as noise() gives it; None:
        that of the seeds. start: slices (B, 1, H, W) in [0, 1] to begin with: they get the noise of the
        last `strength` of the steps, above 0 to 1, and only these are gone; 1 forgets them. None: from
        noise alone. keep: (B, 1, H, W) bool, where a start is to stay: all latents that lie there alone do.
        BrainclipError for another strength or shape.
        """
        layout = self.layout
        if not 0 < strength <= 1:
            raise BrainclipError(
                f"strength = {strength:g}: give the share of the steps to go, above 0, up to 1"
            )
        wanted = (len(seeds), 1, layout.size, layout.size)
        for name, given in (("start", start), ("keep", keep)):
            if given is not None and given.shape != wanted:
                raise BrainclipError(
                    f"{name} of {tuple(given.shape)}: {len(seeds)} seeds of this decoder want {wanted}"
                )
        if keep is not None:
            if start is None:
                raise BrainclipError("keep without a start: give the slices that are to be kept")
            # a latent that reaches into what is drawn anew is drawn anew
            keep = functional.adaptive_max_pool2d((~keep).float(), layout.shape[1:]).to(layout.device) == 0
        captions = list(captions) if captions is not None else [""] * len(seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        own = torch.stack([torch.randn(layout.shape, generator=generator) for generator in generators])
        noise = own if noise is None else noise
        if guidance != 1:
            whitened = torch.cat([whitened, torch.zeros_like(whitened)])
            captions += [""] * len(seeds)
        conditions = layout.conditions(whitened, **layout.tokens(captions))

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            noisy = noisy if guidance == 1 else torch.cat([noisy, noisy])
            times = timestep.to(layout.device).expand(len(noisy))
            predicted = layout.predict(noisy, times, conditions).float()
            if guidance == 1:
                return predicted
            asked, free = predicted.chunk(2)
            return free + guidance * (asked - free)

        found = denoised(
            self.scheduler,
            noise.to(layout.device),
            predict,
            steps=steps,
            generators=generators,
            start=None if start is None else layout.latents(start),
            strength=strength,
            keep=keep,
        )
        return layout.pictures(found).cpu()
