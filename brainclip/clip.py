"""Clip: two open_clip towers, their tokenizer and preprocessing, and the whitening of the image embeddings.

A clip folder opens with open_clip alone: open_clip.create_model("local-dir:FOLDER").
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainclip.config import ClipRecipe
from brainclip.errors import PromptError, WeightsError
from brainclip.weights import hash_file, load_weights, read_json, read_weights, save_weights, write_json

START, END, PAD, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|pad|>", "<|unknown|>"
WEIGHTS = "open_clip_model.safetensors"


class Clip(nn.Module):
    """Text and grey slices in one embedding space.

    embedding: (B, D) float32, unit length. states: (B, 77, W), the text tower's outputs before pooling.
    whitened: (embedding - mean) / std per dimension, the space in which prior and decoder work.
    age_axis: (D,) the direction along which embeddings show the age; 0 where CLIP was not trained to.
    """

    embedding_mean: Tensor
    embedding_std: Tensor
    age_axis: Tensor

    def __init__(self, config: dict[str, Any], tokenizer: Any) -> None:
        super().__init__()
        from open_clip.model import CLIP

        self.config = config
        self.tokenizer = tokenizer
        arguments = copy.deepcopy(config["model_cfg"])
        arguments["text_cfg"] = {k: v for k, v in arguments["text_cfg"].items() if k != "hf_tokenizer_name"}
        self.towers = CLIP(**arguments)
        width = arguments["embed_dim"]
        self.register_buffer("embedding_mean", torch.zeros(width))
        self.register_buffer("embedding_std", torch.zeros(width))  # 0 until measured; whiten() refuses that
        self.register_buffer("age_axis", torch.zeros(width))
        self.hash = ""

    @property
    def context(self) -> int:
        """Tokens in a caption, start and end included."""
        return int(self.config["model_cfg"]["text_cfg"]["context_length"])

    @property
    def size(self) -> int:
        """Pixels along a side of the images."""
        return int(self.config["model_cfg"]["vision_cfg"]["image_size"])

    @classmethod
    def load(cls, folder: Path) -> Clip:
        """The Clip saved in `folder`. WeightsError when a file or key is missing."""
        from tokenizers import Tokenizer

        config = read_json(folder / "open_clip_config.json")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; the clip folder is not complete")
        clip = cls(config, Tokenizer.from_file(str(path)))
        load_weights(clip.towers, folder / WEIGHTS)
        whitening = read_weights(folder / "whitening.safetensors")
        clip.embedding_mean.copy_(whitening["mean"])
        clip.embedding_std.copy_(whitening["std"])
        if "age_axis" in whitening:
            clip.age_axis.copy_(whitening["age_axis"])
        clip.hash = hash_file(folder / WEIGHTS)
        return clip.eval()

    def save(self, folder: Path, *, dtype: torch.dtype | None = torch.float16) -> None:
        """Write the folder that load() and open_clip read; its manifest (open_clip_config.json) last."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": self.context,
                "bos_token": START,
                "eos_token": END,
                "pad_token": PAD,
                "unk_token": UNKNOWN,
            },
        )
        save_weights(self.towers, folder / WEIGHTS, dtype=dtype)
        whitening = {"mean": self.embedding_mean, "std": self.embedding_std, "age_axis": self.age_axis}
        save_file(
            {key: value.cpu().clone() for key, value in whitening.items()}, folder / "whitening.safetensors"
        )
        write_json(folder / "open_clip_config.json", self.config)

    def tokens_in(self, text: str) -> int:
        """Tokens of a text, start and end included."""
        return len(self.tokenizer.encode(text).ids)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, 77). PromptError for a text that does not fit: nothing is cut silently."""
        ids = torch.zeros(len(texts), self.context, dtype=torch.long)
        for row, encoding in enumerate(self.tokenizer.encode_batch(list(texts))):
            if len(encoding.ids) > self.context:
                raise PromptError(
                    f"prompt of {len(encoding.ids)} tokens; at most {self.context} fit, "
                    f"shorten it: {texts[row][:60]!r}"
                )
            ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
        return ids

    def encode_text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding (B, D) and states (B, 77, W) of token ids; the same sums as open_clip's encode_text.

        States beyond the longest text are 0: its causal mask lets the padding be left out, which is 2-3
        times faster.
        """
        towers, longest = self.towers, int((tokens != 0).sum(1).max())
        shorter = tokens[:, :longest]
        x = towers.token_embedding(shorter) + towers.positional_embedding[:longest]  # (B, longest, W)
        x = towers.ln_final(towers.transformer(x, attn_mask=towers.attn_mask[:longest, :longest])).float()
        ends = shorter.argmax(dim=-1)  # the end token has the highest id
        pooled = x[torch.arange(len(x), device=x.device), ends]
        embedding = functional.normalize(pooled @ towers.text_projection.float(), dim=-1)
        return embedding, functional.pad(x, (0, 0, 0, self.context - longest))

    def encode_image(self, images: Tensor) -> Tensor:
        """Embedding (B, D) of grey images (B, 1, H, W) in [0, 1]."""
        mean, std = self.config["preprocess_cfg"]["mean"][0], self.config["preprocess_cfg"]["std"][0]
        features = self.towers.visual(((images - mean) / std).expand(-1, 3, -1, -1))
        return functional.normalize(features.float(), dim=-1)

    def whiten(self, embedding: Tensor) -> Tensor:
        """Embedding minus the training mean, divided by the training standard deviation, per dimension."""
        if not bool((self.embedding_std > 0).all()):
            raise WeightsError("the CLIP's whitening statistics are 0: its training was not finished")
        return (embedding - self.embedding_mean) / self.embedding_std

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """The unit-length embedding of a whitened one."""
        return functional.normalize(whitened * self.embedding_std + self.embedding_mean, dim=-1)


def new_clip(recipe: ClipRecipe, size: int, tokenizer: Any) -> Clip:
    """A Clip with random weights for `size` x `size` slices, as the recipe describes it."""
    config: dict[str, Any] = {
        "model_cfg": {
            "embed_dim": recipe.embedding,
            "vision_cfg": {
                "image_size": size,
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
                "hf_tokenizer_name": "local",
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
        config["model_cfg"] |= {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}
    return Clip(config, tokenizer)


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
