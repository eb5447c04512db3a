"""BrainCLIP: CLIP, prior and decoder together. load a model folder; generate, embed_text, embed_image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainclip.card import untrained
from brainclip.errors import BrainclipError, PromptError, WeightsError
from brainclip.inversion import split_tokens, with_tokens
from brainclip.lora import adapter_weights, shown_adapter
from brainclip.picture import Picture, as_pixels
from brainclip.place import grid, nearest
from brainclip.weights import published, read_json

if TYPE_CHECKING:
    import torch

    from atlas.prompt import Prompt

BUNDLED = Path(__file__).parent / "models"
FORMAT = 1
BATCH = 16  # pictures decoded at a time


class BrainCLIP:
    """A whole model. Parts are loaded when first used, so embedding text does not wait for the decoder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.card = read_json(self.folder / "brainclip.json")
        if self.card.get("format") != FORMAT:
            raise WeightsError(
                f"{self.folder}: model format {self.card.get('format')!r}, this version reads {FORMAT}"
            )
        self.name = f"{self.card['name']}-{self.card['hash']}"

    @property
    def size(self) -> int:
        """Pixels along a side of a slice."""
        return int(self.card["size"])

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters."""
        return tuple(path.parent.name for path in sorted(self.folder.glob("decoder/adapters/*/adapter.json")))

    @property
    def inversions(self) -> dict[str, str]:
        """New tokens that prompts may hold, such as <clinic>, and the names of their inversions."""
        paths = sorted(self.folder.glob("decoder/inversions/*/inversion.json"))
        return {read_json(path)["token"]: path.parent.name for path in paths}

    @property
    def clip(self) -> Any:
        """The brainclip.clip.Clip."""
        return _part("clip", self.folder)

    @property
    def prior(self) -> Any:
        """The brainclip.prior.Prior."""
        return _part("prior", self.folder)

    @property
    def decoder(self) -> Any:
        """The brainclip.decoder.Decoder."""
        return _part("decoder", self.folder)

    def embed_text(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Embeddings (B, D) float32, unit length. PromptError for an empty or a too long text."""
        import torch

        texts = [texts] if isinstance(texts, str) else list(texts)
        for text in texts:
            if not text.strip():
                raise PromptError("empty text; give a caption such as 'axial T1 slice'")
        if not texts:
            return torch.zeros(0, self.clip.embedding_width)
        with torch.inference_mode():
            return self.clip.encode_text(self.clip.tokenize(texts))[0]

    def embed_image(self, images: Any) -> torch.Tensor:
        """Embeddings (B, D) float32, unit length, of slices prepared as the training data is.

        images: one or a list of: path of a PNG or one-slice NIfTI in MNI space; array (H, W) in [0, 1];
        Picture. Volumes and folders: brainclip.embedding.
        """
        from brainclip.encode import encode_images

        single = isinstance(images, str | Path | Picture) or getattr(images, "ndim", 0) == 2
        spacing = float(self.card["spacing_mm"])
        pixels = (as_pixels(image, self.size, spacing) for image in ([images] if single else images))
        return encode_images(self.clip, pixels)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        guidance: float | None = None,
        adapter: str | Mapping[str, float] | None = "auto",
        candidates: int | None = None,
    ) -> list[Picture]:
        """n Pictures per prompt, in the order of the prompts; picture k of a prompt has the seed `seed + k`.

        A prompt is read into facts, and these are said again in a wording of the training captions, which
        each picture keeps in settings["caption"]; a prompt that names no plane is embedded as it is. A new
        token that the model has learned (inversions) is for the decoder alone. A stated size of ventricles
        moves the embedding along its direction (brainclip.sizes; settings["sizes"]). What was not understood
        or not trained is named in Picture.warnings. seed: of all prompts, or one for each.
        steps, guidance: of the decoder; None: what the model card says. adapter: a name, several with a
        weight each ({"ixi": 0.7, "clinic": 0.5}), None for the base model, or "auto" (the adapter that the
        model card prefers for the prompt's contrast). candidates: image embeddings drawn for a picture, of
        which the nearest to the caption's is decoded; None: what the card says.
        PromptError for an empty or too long prompt, WeightsError for an adapter that the model has not.
        """
        import torch

        from brainclip.sizes import sized

        # 1. Read the prompts; everything that can fail does so before any work.
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        found = [self.read(prompt) for prompt in prompts]
        read, tokens = [prompt for prompt, _ in found], [held for _, held in found]
        if n < 1:
            raise BrainclipError(f"n = {n}; at least one picture must be asked for")
        chosen = [self.adapter_for(prompt, adapter) for prompt in read]
        defaults = self.card["generate"]
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(prompts):
            raise BrainclipError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one, or one for each")
        candidates = defaults.get("prior_candidates", 1) if candidates is None else candidates
        if candidates < 1:
            raise BrainclipError(f"candidates = {candidates}; at least one embedding must be drawn")
        steps, guidance = self._sampling(steps, guidance)
        jobs = [(row, seeds[row] + k) for row in range(len(prompts)) for k in range(n)]
        captions = [self.caption(read[row], picture_seed) for row, picture_seed in jobs]
        self.clip.tokenize([*(prompt.text for prompt in read), *captions])
        for token in {token for held in tokens for token in held}:
            self.decoder.use_inversion(self.inversions[token])
        said = [with_tokens(text, tokens[row]) for text, (row, _) in zip(captions, jobs, strict=True)]
        self.decoder.layout.tokens(said)
        # 2. Text embedding -> image embedding.
        with torch.inference_mode():
            embedding = self.prior.sample(
                self.clip,
                captions,
                [picture_seed for _, picture_seed in jobs],
                steps=defaults["prior_steps"],
                guidance=defaults["prior_guidance"],
                age_guidance=defaults.get("prior_age_guidance"),
                candidates=candidates,
            )
            embedding, moved = sized(self, [read[row] for row, _ in jobs], embedding)
        # 3. Image embedding -> picture.
        images = self.decode(
            embedding,
            [picture_seed for _, picture_seed in jobs],
            said,
            adapters=[chosen[row] for row, _ in jobs],
            steps=steps,
            guidance=guidance,
        )
        # 4. Where in the brain, and what to warn of.
        pictures = []
        for job, (row, picture_seed) in enumerate(jobs):
            plane, position, asked = self.place(read[row], embedding[job])
            pictures.append(
                Picture(
                    pixels=images[job],
                    prompt=prompts[row],
                    seed=picture_seed,
                    plane=plane,
                    position_mm=position,
                    position_asked=asked,
                    spacing_mm=float(self.card["spacing_mm"]),
                    model=self.name,
                    facts=read[row].facts,
                    warnings=tuple(self.warnings(read[row])),
                    settings={
                        "caption": said[job],
                        "steps": steps,
                        "guidance": guidance,
                        "adapter": shown_adapter(chosen[row]),
                        "candidates": candidates,
                        **({"sizes": moved[job]} if moved[job] else {}),
                    },
                    embedding=embedding[job].numpy(),
                )
            )
        return pictures

    def decode(
        self,
        embeddings: torch.Tensor,
        seeds: Sequence[int],
        captions: Sequence[str],
        *,
        adapters: Sequence[Mapping[str, float]],
        steps: int | None = None,
        guidance: float | None = None,
    ) -> np.ndarray:
        """Slices (B, H, W) float32 in [0, 1] of image embeddings (B, D) of unit length, each with its seed.

        captions: what a decoder that reads text is told besides. adapters: names and weights for each, empty
        for the base. steps, guidance: None: what the model card says.
        """
        import torch

        steps, guidance = self._sampling(steps, guidance)
        images = np.zeros((len(embeddings), self.size, self.size), dtype=np.float32)
        with torch.inference_mode():
            whitened = self.clip.whiten(embeddings)
        for weights in {
            str(weights): weights for weights in adapters
        }.values():  # one set is active at a time
            rows = [row for row, asked in enumerate(adapters) if asked == weights]
            self.decoder.use_adapter(weights)
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                made = self.decoder.sample(
                    whitened[part],
                    [seeds[row] for row in part],
                    steps=steps,
                    guidance=guidance,
                    captions=[captions[row] for row in part],
                )
                images[part] = made[:, 0].numpy()
        return images

    def _sampling(self, steps: int | None, guidance: float | None) -> tuple[int, float]:
        """Steps and guidance of the decoder as asked, or as the model card says."""
        defaults = self.card["generate"]
        return steps or defaults["steps"], defaults["guidance"] if guidance is None else guidance

    def read(self, prompt: str) -> tuple[Prompt, tuple[str, ...]]:
        """What a prompt asks for, and the new tokens of this model that it holds."""
        from atlas.prompt import read_prompt

        text, tokens = split_tokens(prompt, self.inversions)
        return read_prompt(text), tokens

    def caption(self, prompt: Prompt, seed: int) -> str:
        """The text that generate() embeds for a prompt and a picture's seed."""
        from atlas.caption import restate

        if not self.card["generate"]["restate"] or prompt.facts.plane is None:
            return prompt.text
        return restate(prompt.mentioned, seed=seed).text

    def warnings(self, prompt: Prompt) -> list[str]:
        """What a prompt asks for that the model was not trained on, a sentence each."""
        return untrained(prompt, self.card)

    def adapter_for(self, prompt: Prompt, adapter: str | Mapping[str, float] | None) -> dict[str, float]:
        """The adapters for one prompt, by name with their weights. WeightsError for an unknown name."""
        if adapter == "auto":
            for name in self.adapters:
                card = read_json(self.folder / "decoder" / "adapters" / name / "adapter.json")
                if card["default"] and prompt.facts.modality in card["modalities"]:
                    return {name: 1.0}
            return {}
        weights = adapter_weights(adapter)
        for name in weights:
            if name not in self.adapters:
                raise WeightsError(
                    f"no adapter {name!r} in {self.folder}; it has: {', '.join(self.adapters) or 'none'}"
                )
        return weights

    def place(self, prompt: Prompt, embedding: torch.Tensor) -> tuple[str, float, bool]:
        """(plane, position_mm, whether the position was asked for); what the prompt leaves open is the
        candidate caption closest to the picture's embedding (D,)."""
        asked = prompt.facts
        if asked.plane and asked.position_mm is not None:
            return asked.plane, float(asked.position_mm), True
        places, texts = self._candidates
        return *nearest(asked, places, (texts @ embedding).tolist()), False

    @property
    def _candidates(self) -> tuple[list[tuple[str, float]], torch.Tensor]:
        """Every plane and position on a grid, and the embeddings (N, D) of their captions."""
        return _candidates(self.folder)


@lru_cache(maxsize=8)
def _part(name: str, folder: Path) -> Any:
    """One loaded part of a model folder."""
    if name == "clip":
        from brainclip.clip import Clip

        return Clip.load(folder / "clip")
    clip = _part("clip", folder)
    if name == "prior":
        from brainclip.prior import Prior

        return Prior.load(folder / "prior", clip)
    from brainclip.decoder import Decoder

    return Decoder.load(folder / "decoder", clip)


@lru_cache(maxsize=4)
def _candidates(folder: Path) -> tuple[list[tuple[str, float]], Any]:
    model = load(folder)
    places, captions = grid(model.card["positions"])
    return places, model.embed_text(captions)


@lru_cache(maxsize=4)
def load(model: str | Path = "mini") -> BrainCLIP:
    """A model: "mini" (bundled), a folder, or a Hugging Face hub id such as "lab/model"."""
    if (BUNDLED / str(model) / "brainclip.json").is_file():
        return BrainCLIP(BUNDLED / str(model))
    if Path(model).is_dir():
        return BrainCLIP(Path(model))
    if str(model).count("/") == 1 and not str(model).startswith((".", "/")):
        return BrainCLIP(published(str(model), ["*"]))
    bundled = ", ".join(path.parent.name for path in BUNDLED.glob("*/brainclip.json")) or "none"
    raise WeightsError(f"{model}: no such model folder; bundled models: {bundled}")


def generate(
    prompts: str | Sequence[str],
    *,
    n: int = 1,
    seed: int | Sequence[int] = 0,
    steps: int | None = None,
    guidance: float | None = None,
    adapter: str | Mapping[str, float] | None = "auto",
    candidates: int | None = None,
    model: str | Path = "mini",
) -> Picture | list[Picture]:
    """One Picture for one prompt with n = 1, else a list; see BrainCLIP.generate."""
    pictures = load(model).generate(
        prompts,
        n=n,
        seed=seed,
        steps=steps,
        guidance=guidance,
        adapter=adapter,
        candidates=candidates,
    )
    return pictures[0] if isinstance(prompts, str) and n == 1 else pictures
