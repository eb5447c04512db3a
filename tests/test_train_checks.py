"""Recipes that no run can be made of: one sentence and exit code 2, before anything is read or written."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from toy_pairs import write_toy_pairs

from brainclip import cli
from brainclip.config import TrainingRecipe, load_recipe
from brainclip.data import PairDataset
from brainclip.errors import RecipeError
from brainclip.train.checks import check_settings, check_stage

TINY = str(ROOT / "recipes" / "tiny.toml")
ADAPTER = ["adapter.site.mix={simulated=1.0}"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("clip clip.batch=0", "clip.batch = 0: give 1 or more"),
        ("clip clip.batch=1", "clip.batch = 1: a contrastive loss compares 2 pairs or more"),
        ("clip clip.steps=-1", "clip.steps = -1: give 0 or more"),
        ("clip clip.save_every=0", "clip.save_every = 0: give 1 or more"),
        ("clip clip.seed=-1", "clip.seed = -1: give 0 or more"),
        ("clip clip.rate=-1", "clip.rate = -1.0: give 0 or more"),
        ("clip clip.rate=nan", "clip.rate = nan: give a finite number"),
        ("clip clip.ema=1", "clip.ema = 1.0: give a number from 0 (no average of weights) to below 1"),
        ("clip clip.precision=half", "clip.precision = 'half': possible are no, bf16, fp16"),
        ("clip clip.device=gpu", "clip.device = 'gpu': possible are auto, cpu"),
        ("clip clip.optimizer=sgd", "optimizer = 'sgd': possible are adamw, adamw8bit"),
        ("clip clip.track=['mlflow']", "track = 'mlflow': possible are tensorboard"),
        ("clip clip.mix={}", "clip.mix = {}: give pairs tables with their shares"),
        ("clip clip.mix={simulated=0}", "clip.mix = {'simulated': 0.0}: give pairs tables with their shares"),
        ("clip clip.mix={simulated=2,ixi=-1}", "give pairs tables with their shares"),
        ("clip clip.mix={ixi=1}", "recipe 'tiny' has no table [pairs.ixi]; it has: simulated"),
        ("clip clip.loss=infonce", "clip.loss = 'infonce': possible are multi-positive, clip, siglip"),
        ("clip clip.alike=2", "clip.alike = 2.0: it is a share, from 0 to 1"),
        ("clip clip.augment={mirror=2}", "clip.augment.mirror = 2.0: it is a share, from 0 to 1"),
        ("clip clip.augment={scale=-1.5}", "clip.augment.scale = -1.5: give 0 or more"),
        ("clip clip.head_width=24", "clip.vision_width = 32: it must be a multiple of clip.head_width = 24"),
        ("clip clip.text_width=40", "clip.text_width = 40: it must be a multiple of clip.head_width = 16"),
        ("clip clip.patch=7", "clip.patch = 7: slices of 32 x 32 pixels are not multiples of it"),
        ("clip clip.image_size=[32]", "clip.image_size = [32]: give height and width, or nothing"),
        ("clip clip.image_size=[0,32]", "clip.image_size = [0, 32]: give 1 or more"),
        ("clip clip.vocabulary=10", "clip.vocabulary = 10: give 260 or more"),
        ("clip clip.context=0", "clip.context = 0: give 3 or more"),
        ("clip clip.train=blocks", "all but full need clip.base or clip.start"),
        ("clip clip.base=ViT-B-32", "clip.base = 'ViT-B-32': possible are \"NAME/TAG\" of open_clip"),
        ("clip clip.base=local-dir:", "clip.base = 'local-dir:': possible are"),
        ("clip clip.base=a/b clip.start=c", "clip.start and clip.base: give one of them"),
        ("vae vae.widths=[10,8]", "vae.widths = [10, 8]: give one or more, multiples of 8"),
        ("vae vae.widths=[]", "vae.widths = []: give one or more, multiples of 8"),
        ("vae vae.patch=6", "vae.patch = 6: 3 vae.widths double the side 2 times"),
        ("vae vae.patch=12 vae.crop=12", "vae.patch = 12: size = 32 is no multiple of it"),
        ("vae vae.latents=65", "vae.latents = 65: a patch of 8 x 8 pixels has 64 components"),
        ("vae vae.crop=20", "vae.crop = 20: possible are multiples of 8 up to the slices' 32 pixels"),
        ("vae vae.crop=40", "vae.crop = 40: possible are multiples of 8 up to the slices' 32 pixels"),
        ("vae vae.train=all", "vae.train = 'all': our own encoder is not trained; give a base as well"),
        ("vae vae.train=some vae.base=x", "vae.train = 'some': possible are decoder, all"),
        ("prior prior.heads=0", "prior.heads = 0: give 1 or more"),
        ("prior prior.caption_dropout=1.5", "prior.caption_dropout = 1.5: it is a share, from 0 to 1"),
        (
            "prior prior.sampling_steps=2000",
            "prior.sampling_steps = 2000: at most the prior.timesteps",
        ),
        ("prior prior.train=lora", "with prior.base or prior.start also 'lora'"),
        ("prior prior.train=lora prior.start=x prior.rank=0", "prior.rank = 0: give 1 or more"),
        ("prior prior.candidates=0", "prior.candidates = 0: give 1 or more"),
        (
            "decoder decoder.channels=[]",
            "decoder.channels = []: give one or more, multiples of",
        ),
        ("decoder decoder.channels=[20,32]", "decoder.channels = [20, 32]: give one or more, multiples of"),
        ("decoder decoder.expected_width=12", "decoder.expected_width = 12: give a multiple of 8"),
        ("decoder size=40 spacing_mm=5", "slices of 40 pixels: a decoder of 2 channels over latents 8 times"),
        ("decoder decoder.sampling_steps=1001", "decoder.sampling_steps = 1001: at most 1000"),
        ("decoder decoder.pyramid_noise=3", "decoder.pyramid_noise = 3.0: it is a share, from 0 to 1"),
        ("decoder decoder.objective=eps", "decoder.objective = 'eps': possible are flow, epsilon"),
        ("decoder/site adapter.site.rank=0", "adapter.site.rank = 0: give 1 or more"),
        ("decoder/site adapter.site.targets=[]", "adapter.site.targets is empty"),
        ("decoder/site adapter.site.modalities=['CT']", "'CT'; possible are T1, T2, PD, FLAIR"),
        ("decoder/site adapter.site.text=true", "adapter.site.text = true: this decoder has no text path"),
        ("decoder/site adapter.site.min_snr=5", "min_snr = 5: the flow has no weights"),
        ("decoder/site adapter.site.text_rate=-1", "adapter.site.text_rate = -1.0: give 0 or more"),
        ("decoder/s:1 adapter.s:1.rank=4", "[adapter.s:1]: a name is made of letters, digits, - and _"),
        ("pixel pixel.model=unet", "pixel.model = 'unet': possible are unet-small"),
        ("pixel pixel.model=unet-large size=40", "takes slices of a multiple of 16 pixels, not 40"),
        ("pixel pixel.sampling_steps=2000", "pixel.sampling_steps = 2000: at most 1000"),
        ("pairs size=0", "size = 0: a slice has 1 pixel or more along a side"),
        ("pairs spacing_mm=0", "spacing_mm = 0.0: give a number above 0"),
        ("pairs pairs.simulated.source=xnat", "pairs.simulated.source = 'xnat': possible are"),
        ("pairs pairs.simulated.every_mm=0", "pairs.simulated.every_mm = 0.0: give a number above 0"),
        ("pairs pairs.simulated.modalities=['CT']", "'CT'; possible are T1, T2, PD, FLAIR"),
        ("pairs simulate.subjects=0", "simulate.subjects = 0: give 1 or more"),
        ("evaluate judge.batch=0", "judge.batch = 0: give 1 or more"),
        ("evaluate judge.width=12", "judge.width = 12; it should be a multiple of 8"),
    ],
)
def test_a_faulty_recipe_is_one_sentence_and_leaves_nothing_behind(
    argv: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *overrides = argv.split(" ")
    stage, _, adapter = verb.partition("/")
    given = [f"folder={tmp_path / 'run'}", "pixel.mix={simulated=1}", "pixel.batch=4", *overrides]
    if adapter == "site":
        given = [*ADAPTER, *given]
    command = [stage, TINY, "--set", *given]
    command += ["--adapter", adapter] if adapter else []
    for further in (["--dry-run"], []):
        assert cli.main([*command, *further]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("brainclip: ") and printed.err.count("\n") == 1
        assert sentence in printed.err
        assert printed.out == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tiny", "mini", "mini_age", "base", "pixel"])
def test_every_stage_of_the_recipes_of_the_repository_passes(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.toml")
    stages = ("pixel",) if name == "pixel" else ("clip", "vae", "prior", "decoder")
    for stage in ("pairs", *stages):
        if stage == "pairs" or set(getattr(recipe, stage).mix) <= set(recipe.pairs):
            check_stage(recipe, stage)
    for adapter in recipe.adapter:
        check_stage(recipe, "decoder", adapter=adapter)


def test_pairs_of_another_size_than_the_recipes_are_refused_with_both(tmp_path: Path) -> None:
    write_toy_pairs(tmp_path / "pairs" / "simulated", subjects=(2, 1, 1))
    recipe = load_recipe(TINY, [f"folder={tmp_path}"])
    check_stage(recipe, "clip")
    other = load_recipe(TINY, [f"folder={tmp_path}", "size=64", "spacing_mm=3"])
    with pytest.raises(RecipeError, match="its slices have size = 32, the recipe says 64"):
        check_stage(other, "clip")


def test_the_loop_refuses_what_has_not_come_from_a_recipes_stage(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"strip\.batch = 0: give 1 or more"):
        check_settings("strip", TrainingRecipe(batch=0))


@pytest.mark.parametrize(("batch", "alike"), [(24, 1.0), (8, 1.0), (40, 0.9)])
def test_a_batch_holds_no_more_groups_of_alike_slices_than_fit(
    batch: int, alike: float, tmp_path: Path
) -> None:
    write_toy_pairs(tmp_path / "toy", subjects=(3, 1, 1))
    data = PairDataset([tmp_path / "toy"], "train")
    rows = data.draw(batch, 0, 0, alike=alike)
    assert len(rows) == batch
