"""Clip: a CLIP's two towers with their tokenizer and preprocessing, and the whitening of its embeddings.

A clip folder opens with the library its towers are from: open_clip.create_model("local-dir:FOLDER"), or
transformers' from_pretrained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainclip.config import ClipRecipe, digest
from brainclip.errors import PromptError, WeightsError
from brainclip.towers import Layout, Towers, lengths_of
from brainclip.towers.bases import read_folder
from brainclip.towers.open_clip import (
    END,
    LOGIT_BIAS,
    OWN_VOCABULARY,
    PAD,
    START,
    UNKNOWN,
    OpenClip,
    build,
)
from brainclip.weights import hash_file, read_weights

WHITENING = "whitening.safetensors"


class Clip(nn.Module):
    """Text and grey slices in one embedding space.

    towers: the library's own model; layout: how it is run and written.
    embedding: (B, D) float32, unit length. states: (B, context, W), the text tower's outputs after its last
    norm and before pooling. whitened: (embedding - mean) / std per dimension, the space in which prior and
    decoder work. age_axis: (D,) the direction along which embeddings show the age; 0 where CLIP was not
    trained to.
    """

    embedding_mean: Tensor
    embedding_std: Tensor
    age_axis: Tensor

    def __init__(self, layout: Layout, towers: Towers) -> None:
        super().__init__()
        self.layout = layout
        self.towers: Towers = towers
        width = layout.embedding_width
        self.register_buffer("embedding_mean", torch.zeros(width))
        self.register_buffer("embedding_std", torch.zeros(width))  # 0 until measured; whiten() refuses that
        self.register_buffer("age_axis", torch.zeros(width))
        self.hash = ""

    @property
    def context(self) -> int:
        """Tokens in a caption, start and end included."""
        return self.layout.context

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels to which slices are brought."""
        return self.layout.size

    @property
    def embedding_width(self) -> int:
        """Numbers of an embedding."""
        return self.layout.embedding_width

    @property
    def states_width(self) -> int:
        """Numbers of a token's state."""
        return self.layout.states_width(self.towers)

    @classmethod
    def load(cls, folder: Path) -> Clip:
        """The Clip saved in `folder`. WeightsError when a file or key is missing."""
        layout, towers = read_folder(folder)
        clip = cls(layout, towers)
        kept = read_weights(folder / WHITENING)
        clip.embedding_mean.copy_(kept["mean"])
        clip.embedding_std.copy_(kept["std"])
        if "age_axis" in kept:
            clip.age_axis.copy_(kept["age_axis"])
        for name in ("logit_scale", "logit_bias"):
            if name in kept:
                setattr(towers, name, nn.Parameter(kept[name]))
        hashes = [hash_file(path) for path in layout.weights(folder)]
        clip.hash = hashes[0] if len(hashes) == 1 else digest(hashes)
        return clip.eval()

    def save(self, folder: Path, *, dtype: torch.dtype | None = torch.float16) -> None:
        """Write the folder that load() and the towers' own library read; its manifest last."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        kept = {"mean": self.embedding_mean, "std": self.embedding_std, "age_axis": self.age_axis}
        kept |= self.layout.extras(self.towers)
        save_file({key: value.detach().cpu().clone() for key, value in kept.items()}, folder / WHITENING)
        self.layout.save(self.towers, folder, dtype)

    def tokens_in(self, text: str) -> int:
        """Tokens of a text, start and end included."""
        return len(self.layout.ids([text])[0])

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, context), 0 after the end of a text, whatever the tower's own padding is.

        PromptError for a text that does not fit: nothing is cut silently.
        """
        tokens = torch.zeros(len(texts), self.context, dtype=torch.long)
        for row, ids in enumerate(self.layout.ids(texts)):
            if len(ids) > self.context:
                raise PromptError(
                    f"prompt of {len(ids)} tokens; at most {self.context} fit, "
                    f"shorten it: {texts[row][:60]!r}"
                )
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens

    def encode_text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding (B, D) and states (B, context, W) of token ids; the same sums as the library's own.

        States beyond the longest text may be 0.
        """
        features, states = self.layout.encode_text(self.towers, tokens, lengths_of(tokens))
        missing = self.context - states.shape[1]
        return functional.normalize(features.float(), dim=-1), functional.pad(states, (0, 0, 0, missing))

    def encode_image(self, images: Tensor) -> Tensor:
        """Embedding (B, D) of grey images (B, 1, H, W) in [0, 1], cropped centrally to the aspect of `size`,
        resized to it and normalised as the towers were trained."""
        features = self.layout.encode_image(self.towers, self.layout.pixels(images))
        return functional.normalize(features.float(), dim=-1)

    def add_logit_bias(self) -> None:
        """Give towers that have none the bias, and the scale that goes with it, with which a sigmoid loss
        begins (Zhai et al. 2023, section 3.2)."""
        if self.towers.logit_bias is None:
            scale = self.towers.logit_scale
            scale.data.fill_(math.log(10))
            self.towers.logit_bias = nn.Parameter(torch.full_like(scale, LOGIT_BIAS))

    def whiten(self, embedding: Tensor) -> Tensor:
        """Embedding minus the training mean, divided by the training standard deviation, per dimension."""
        if not bool((self.embedding_std > 0).all()):
            raise WeightsError("the CLIP's whitening statistics are 0: its training was not finished")
        return (embedding - self.embedding_mean) / self.embedding_std

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """The unit-length embedding of a whitened one."""
        return functional.normalize(whitened * self.embedding_std + self.embedding_mean, dim=-1)


def new_clip(recipe: ClipRecipe, size: int, tokenizer: Any) -> Clip:
    """A Clip with random weights for slices of the recipe's image_size, else `size` x `size`."""
    config: dict[str, Any] = {
        "model_cfg": {
            "embed_dim": recipe.embedding,
            "vision_cfg": {
                "image_size": list(recipe.image_size) or size,
                "patch_size": recipe.patch,
                "width": recipe.vision_width,
                "layers": recipe.vision_layers,
                "head_width": recipe.head_width,
            },
            "text_cfg": {
                "context_length": recipe.context,
                "vocab_size": tokenizer.get_vocab_size(),
                "width": recipe.text_width,
                "heads": recipe.text_width // recipe.head_width,
                "layers": recipe.text_layers,
                "hf_tokenizer_name": OWN_VOCABULARY,
            },
        },
        "preprocess_cfg": {
            "mean": [0.2] * 3,
            "std": [0.3] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    if recipe.loss == "siglip":  # Zhai et al. 2023, section 3.2
        config["model_cfg"] |= {"init_logit_scale": math.log(10), "init_logit_bias": LOGIT_BIAS}
    layout, towers = OpenClip(config, tokenizer), build(config["model_cfg"], Path())
    if recipe.image_size:
        layout.check_size(towers)
    return Clip(layout, towers)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A lower-case byte-level BPE of at most `vocabulary` tokens; start and end are added to every text.

    The end token has the highest id because open_clip pools the text tower there.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.Prepend(" ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        special_tokens=[PAD, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(START, tokenizer.token_to_id(START)), (END, tokenizer.token_to_id(END))],
    )
    return tokenizer
