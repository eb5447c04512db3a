"""Stage clip: two towers trained so that a slice is closest to the captions that are true of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from atlas.caption import Caption, caption
from atlas.facts import Facts
from atlas.truth import facet_table, mention_table, truth_of_tables
from brainclip.clip import Clip, new_clip, train_tokenizer
from brainclip.config import ClipRecipe, Recipe, as_dict
from brainclip.data import PairDataset, training_data
from brainclip.errors import RecipeError
from brainclip.towers.bases import open_base
from brainclip.train import adapt
from brainclip.train.age import AgeReading, stated_ages
from brainclip.train.checks import check_adaptation
from brainclip.train.loop import Batch, Stage, step_seed, train
from brainclip.train.losses import in_pieces, multi_positive_loss, siglip_loss
from brainclip.train.processes import gathered
from brainclip.weights import hash_weights

CORPUS = 20_000  # captions the vocabulary is learned from
SAMPLE = 10_000  # slices whose embeddings are measured
WHOLE = ("positives", "stated", "ages")  # of a batch, in each process
LARGEST_SCALE = float(np.log(100))  # open_clip's bound of the logit scale


class ClipObjective(nn.Module):
    """The contrastive loss of a batch of slices and captions, and `age` times that of the AgeReading.

    loss: one of checks.LOSSES; piece: rows that a tower takes at a time, 0 for all.
    """

    def __init__(
        self,
        clip: Clip,
        reading: AgeReading,
        *,
        age: float = 0.0,
        loss: str = "multi-positive",
        piece: int = 0,
    ) -> None:
        super().__init__()
        self.clip, self.reading, self.age = clip, reading.requires_grad_(age > 0), age
        self.loss, self.piece = loss, piece
        self.still = adapt.still_modules(clip.towers) + adapt.batch_norms(clip.towers)

    def train(self, mode: bool = True) -> ClipObjective:
        """As of any module, but without dropout in what is not trained, and with batch norms as in use.

        Those of a ResNet keep the base's running statistics. With a batch's own, an embedding would depend on
        the rows beside it, and the loss on the pieces and processes among which a batch is shared.
        """
        super().train(mode)
        for module in self.still:
            module.eval()
        return self

    def forward(
        self, images: Tensor, tokens: Tensor, positives: Tensor, stated: Tensor, ages: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """images (b, 1, H, W), tokens (b, 77) of this process's rows; positives (B, B) of all rows,
        years that a caption states and that a person has, (B,), nan where not known."""
        with torch.no_grad():
            self.clip.towers.logit_scale.clamp_(0, LARGEST_SCALE)
        text = gathered(in_pieces(lambda piece: self.clip.encode_text(piece)[0], tokens, self.piece))
        image = gathered(in_pieces(self.clip.encode_image, images, self.piece))
        loss = self._contrast(text, image, positives)
        hit = positives[torch.arange(len(text)), (text @ image.T).argmax(1)].float().mean()
        extras = {"text_to_image": hit, "scale": self.clip.towers.logit_scale.exp().detach()}
        if self.age:
            of_text, of_image = self.reading(text, stated, 0), self.reading(image, ages, 1)
            loss = loss + self.age * (of_text + of_image) / 2
            extras |= {"age_of_text": of_text.detach(), "age_of_image": of_image.detach()}
        return loss, extras

    def _contrast(self, text: Tensor, image: Tensor, positives: Tensor) -> Tensor:
        scale = self.clip.towers.logit_scale.exp()
        if self.loss == "siglip":
            return siglip_loss(text, image, positives, scale, self.clip.towers.logit_bias)
        if self.loss == "clip":
            positives = torch.eye(len(text), dtype=torch.bool, device=text.device)
        return multi_positive_loss(text, image, positives, scale)


def jitter(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Images (B, 1, H, W), shifted by 2 pixels at most, gamma 0.85 to 1.18. No flip: captions name sides."""
    rows = []
    for image in images:
        shift = generator.integers(-2, 3, size=2).tolist()
        rows.append(torch.roll(image, shift, dims=(1, 2)) ** float(np.exp(generator.uniform(-0.16, 0.16))))
    return torch.stack(rows)


def drawn_captions(data: PairDataset, indices: np.ndarray, seed: int, step: int) -> list[Caption]:
    """A caption for each pair, from (seed, step, row) alone."""
    return captions_of([data.pairs[i].facts for i in indices], seed, step)


def captions_of(facts: Sequence[Facts], seed: int, step: int) -> list[Caption]:
    """A caption for each slice of a batch, from (seed, step, row) alone."""
    first = step_seed(seed, step) * 4096
    return [caption(row_facts, seed=(first + row) % 2**32) for row, row_facts in enumerate(facts)]


def corpus(data: PairDataset, seed: int) -> list[str]:
    """Captions to learn the vocabulary from; the pairs in the order of the seed."""
    chosen = np.random.default_rng(seed).integers(len(data), size=CORPUS)
    return [caption(data.pairs[i].facts, seed=row).text for row, i in enumerate(chosen)]


def longest_caption(clip: Clip, texts: Sequence[str]) -> int:
    """Tokens of the longest text; RecipeError before any training where one does not fit."""
    tokens, text = max((clip.tokens_in(text), text) for text in texts)
    if tokens > clip.context:
        raise RecipeError(
            f"a training caption takes {tokens} tokens, {clip.context} fit: {text[:60]!r}; give a larger "
            "clip.vocabulary or clip.context, or another clip.base"
        )
    return tokens


@torch.no_grad()
def embed_all(clip: Clip, data: PairDataset, indices: np.ndarray, batch: int = 256) -> Tensor:
    """Embeddings (N, D) of the slices at `indices`, where the CLIP is."""
    device = clip.embedding_mean.device
    starts = tqdm(range(0, len(indices), batch), desc="embed", unit="batch", disable=len(indices) <= batch)
    parts = [clip.encode_image(data.images(indices[i : i + batch]).to(device)) for i in starts]
    return torch.cat(parts)


def train_clip(recipe: Recipe) -> dict[str, float]:
    """Train the clip stage of a recipe into <folder>/clip."""
    stage, run = recipe.clip, Path(recipe.folder) / "clip"
    data = training_data(recipe, stage)
    texts = corpus(data, stage.seed)
    clip = first_clip(stage, data.size, texts)
    inputs = {"pairs": data.hash} | _began_with(stage, clip)
    longest = longest_caption(clip, texts)
    lora = adapt.choose(clip, stage)
    facets = facet_table([pair.facts for pair in data.pairs])
    if stage.age and not clip.layout.image_maps(clip.towers):
        raise RecipeError("clip.age needs an image tower with a linear projection, which this base has not")
    if stage.age and not np.isfinite(facets.age).any():
        raise RecipeError("clip.age: the age of nobody in these pairs is known; leave it 0")
    reading = AgeReading(clip)

    def batch(step: int) -> Batch:
        indices = data.draw(stage.batch, stage.seed, step, alike=stage.alike)
        images, facts = data.augmented(indices, stage.augment, seed=stage.seed, step=step)
        captions = captions_of(facts, stage.seed, step)
        shown = facet_table(facts) if stage.augment.mirror else facets.take(indices)
        mentions = mention_table([c.mentioned for c in captions])
        positives = truth_of_tables(mentions, shown)
        np.fill_diagonal(positives, True)
        return {
            "images": jitter(images, np.random.default_rng([stage.seed, step, 1])),
            "tokens": clip.tokenize([c.text for c in captions]),
            "positives": torch.from_numpy(positives),
            "stated": stated_ages(mentions),
            "ages": torch.from_numpy(shown.age).float(),
        }

    def save(folder: Path) -> None:
        clip.cpu()
        if stage.age or stage.locked != "image" or not stage.start:  # else its statistics hold
            sample = np.random.default_rng(0).permutation(len(data))[:SAMPLE]
            embedding = embed_all(clip, data, sample)
            if stage.age:
                embedding = reading.settle(clip, embedding, torch.from_numpy(facets.age[sample]))
            clip.embedding_mean.copy_(embedding.mean(0))
            clip.embedding_std.copy_(embedding.std(0))
        adapt.save(clip, lora, folder)

    card = {"recipe": as_dict(stage), "inputs": inputs, "longest_caption_tokens": longest}
    objective = ClipObjective(clip, reading, age=stage.age, loss=stage.loss, piece=stage.piece)
    return train(Stage("clip", objective, batch, save, whole=WHOLE), stage, run, card)


def first_clip(stage: ClipRecipe, size: int, texts: Sequence[str]) -> Clip:
    """The Clip a run begins with: that of `start` or `base`, or random weights and a vocabulary of these
    captions for slices of `size` pixels."""
    check_adaptation(stage)
    torch.manual_seed(stage.seed)
    if stage.start:
        clip = Clip.load(Path(stage.start))
        if stage.image_size not in ((), clip.size):
            raise RecipeError(
                f"clip.image_size = {list(stage.image_size)}: clip.start takes {list(clip.size)}"
            )
    elif stage.base:
        clip = Clip(*open_base(stage.base, stage.image_size))
    else:
        return new_clip(stage, size, train_tokenizer(texts, stage.vocabulary))
    if stage.loss == "siglip":
        clip.add_logit_bias()
    return clip


def _began_with(stage: ClipRecipe, clip: Clip) -> dict[str, str]:
    """What run.json says of the weights a run went on from; nothing for random weights."""
    if stage.start:
        return {"start": clip.hash}
    return {"base": hash_weights(clip.towers)} if stage.base else {}
