from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_atlas_caption import random_facts
from toys import TEXTS, smooth_images, toy_clip

from atlas.caption import caption, captions, wording_names
from atlas.structures import SIZES, structures
from brainclip.clip import Clip
from brainclip.errors import PromptError, RecipeError, WeightsError
from brainclip.train.clip import jitter, longest_caption


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "clip"
    toy_clip().save(folder, dtype=None)
    return folder


def test_clip_folder_opens_with_open_clip_and_gives_the_same_embeddings(folder: Path) -> None:
    import open_clip

    clip = Clip.load(folder)
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = clip.tokenize(TEXTS)
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS), tokens)
    assert torch.allclose(theirs.encode_text(tokens, normalize=True), clip.encode_text(tokens)[0], atol=1e-6)
    images = smooth_images(3)
    theirs_image = theirs.encode_image(((images - 0.2) / 0.3).expand(-1, 3, -1, -1), normalize=True)
    assert torch.allclose(theirs_image, clip.encode_image(images), atol=1e-6)


def test_saved_and_loaded_clip_is_the_same(folder: Path) -> None:
    first, second = toy_clip(), Clip.load(folder)
    assert torch.equal(first.encode_image(smooth_images(2)), second.encode_image(smooth_images(2)))
    assert torch.equal(first.embedding_mean, second.embedding_mean)
    assert len(second.hash) == 16


def test_end_token_has_the_highest_id_and_padding_is_zero() -> None:
    clip = toy_clip()
    tokens = clip.tokenize(TEXTS)
    assert tokens.shape == (3, 77)
    tokenizer = clip.layout.tokenizer
    assert tokens.max() == tokenizer.get_vocab_size() - 1 == tokenizer.token_to_id("<|endoftext|>")
    assert (tokens[0] == 0).sum() == 77 - clip.tokens_in(TEXTS[0])


def test_upper_case_and_blanks_do_not_change_the_tokens() -> None:
    clip = toy_clip()
    assert torch.equal(clip.tokenize([" Axial t1 SLICE "]), clip.tokenize(["axial T1 slice"]))


def test_captions_of_all_wordings_fit_into_77_tokens_of_open_clip() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer, names = SimpleTokenizer(), wording_names()
    visible = {name: 90.0 for regions in structures().values() for name in sorted(regions)}
    longest = (0, "")
    for seed in range(4000):
        rng, facts = random.Random(seed), random_facts(seed)
        known = {"age": rng.uniform(18, 91), "sex": rng.choice(["female", "male"]), "health": "healthy"}
        known |= {"handedness": "ambidextrous", "field_strength": rng.choice([1.5, 3.0, 7.0])}
        sizes = {name: rng.choice(list(SIZES)) for name in structures()}
        regions = facts.regions | (visible if seed % 2 else {})
        facts = replace(facts, known=known, sizes=sizes, regions=regions)
        for text in (
            caption(facts, seed=seed, wording=names[seed % len(names)]).text,
            *(one.text for one in captions(facts, seed=seed, n=3)),  # one of each style
        ):
            longest = max(longest, (len(tokenizer.encode(text)) + 2, text))  # begin and end
    assert 60 < longest[0] <= 77, longest  # 73 as measured


def test_prompt_over_77_tokens_is_refused_not_cut() -> None:
    with pytest.raises(PromptError, match=r"prompt of \d+ tokens; at most 77 fit"):
        toy_clip().tokenize(["axial T1 slice " * 40])


def test_missing_weight_file_is_an_error_never_random_weights(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors: no such weight file"):
        Clip.load(tmp_path / "clip")


def test_truncated_weight_file_is_an_error(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "clip")
    path = tmp_path / "clip" / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match="damaged weight file"):
        Clip.load(tmp_path / "clip")


def test_whitening_without_statistics_is_refused() -> None:
    clip = toy_clip()
    clip.embedding_std.zero_()
    with pytest.raises(WeightsError, match="whitening statistics are 0"):
        clip.whiten(torch.zeros(1, 32))


def test_unwhitening_undoes_whitening() -> None:
    clip = toy_clip()
    embedding = clip.encode_image(smooth_images(4))
    assert torch.allclose(clip.unwhiten(clip.whiten(embedding)), embedding, atol=1e-6)


def test_jitter_never_mirrors() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16, 4] = 1
    for seed in range(20):
        moved = jitter(image, np.random.default_rng(seed))
        assert moved[0, 0].argmax() % 32 < 8  # the mark stays on its side


def test_a_caption_that_does_not_fit_is_refused_before_training() -> None:
    clip = toy_clip()
    assert longest_caption(clip, TEXTS) == max(clip.tokens_in(text) for text in TEXTS) <= clip.context
    with pytest.raises(RecipeError, match=r"a training caption takes \d+ tokens, 77 fit"):
        longest_caption(clip, [*TEXTS, "axial T1 slice " * 40])
