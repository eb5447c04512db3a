"""Whatever can be embedded: the same slice by any way in has the same embedding, and bad input is refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from toy_run import toy_run

import brainclip
from atlas.slices import Geometry, slice_to_nifti
from atlas.volume import save_volume
from brainclip.embedding.embedded import embed
from brainclip.embedding.samples import samples
from brainclip.embedding.transformer import SliceEmbedder
from brainclip.encode import encode_images
from brainclip.errors import BrainclipError, VolumeError
from brainclip.model import BrainCLIP, load

SIZE = 32
GEOMETRY = Geometry(SIZE, 6.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BrainCLIP:
    folder = tmp_path_factory.mktemp("run")
    toy_run(folder)
    return load(folder / "model")


@pytest.fixture
def grey() -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE))
    return (values / 255).astype(np.float32)


def test_array_png_nifti_slice_and_image_in_memory_are_the_same_slice(
    model: BrainCLIP, grey: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(np.round(grey * 255).astype(np.uint8)).save(tmp_path / "x.png")
    nifti = slice_to_nifti(grey, "coronal", -11.0, GEOMETRY)
    save_volume(nifti, tmp_path / "x.nii.gz")
    ways = [grey, tmp_path / "x.png", str(tmp_path / "x.nii.gz"), nifti]
    made = embed(ways, model=model, check=False)
    assert made.embeddings.shape == (4, model.clip.embedding_width)
    assert torch.allclose(made.embeddings, made.embeddings[:1].expand(4, -1), atol=1e-5)
    places = [(one.facts.plane, one.facts.position_mm) for one in made.samples]
    assert places == [(None, None), (None, None), ("coronal", -11.0), ("coronal", -11.0)]
    assert torch.allclose(made.embeddings, model.embed_image([grey] * 4), atol=1e-6)


def test_a_png_of_16_bits_is_the_same_slice(model: BrainCLIP, grey: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(np.round(grey * 65535).astype(np.uint16)).save(tmp_path / "x.png")
    made = embed([grey, tmp_path / "x.png"], model=model, check=False)
    assert made.samples[1].pixels == pytest.approx(grey, abs=1 / 65535)
    assert torch.allclose(made.embeddings[0], made.embeddings[1], atol=1e-4)


def test_a_stack_of_slices_gives_a_row_each_whatever_the_batch(model: BrainCLIP) -> None:
    stack = np.random.default_rng(1).random((7, SIZE, SIZE), dtype=np.float32)
    rows = embed([stack], model=model, check=False).embeddings
    for batch in (1, 3, 7, 20):
        assert torch.allclose(encode_images(model.clip, stack, batch=batch), rows, atol=1e-5)
    assert len(encode_images(model.clip, [])) == 0


def test_slices_are_drawn_as_they_are_needed(model: BrainCLIP) -> None:
    drawn = 0

    def slices() -> object:
        nonlocal drawn
        for _ in range(100):
            drawn += 1
            yield np.zeros((SIZE, SIZE), dtype=np.float32)

    from brainclip.encode import encoded

    next(encoded(model.clip, slices(), batch=4))  # type: ignore[arg-type]
    assert drawn <= 12  # the batch, and the next


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("none.png", "none.png: no such file"),
        ("notes.txt", "notes.txt: unknown kind of file"),
        (".", "a folder; embed it with `brainclip embed"),
        (np.zeros((16, 32), np.float32), r"slice of \(16, 32\)"),
        (np.full((SIZE, SIZE), 7.0), "outside"),
        (np.full((SIZE, SIZE), np.nan), "not finite"),
        (None, "NoneType: possible are files, arrays"),
    ],
)
def test_what_cannot_be_embedded_is_refused_with_its_name(
    given: object, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("no picture")
    with pytest.raises(BrainclipError, match=sentence):
        list(samples(given, GEOMETRY))


def test_a_volume_needs_a_contrast_and_an_orientation(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((24, 28, 26), dtype=np.float32)
    image = nib.Nifti1Image(values, np.diag([6.0, 6.0, 6.0, 1.0]))
    nib.save(image, tmp_path / "head.nii.gz")
    with pytest.raises(VolumeError, match="does not say the contrast"):
        list(samples(tmp_path / "head.nii.gz", GEOMETRY))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "head_T1.nii.gz")
    with pytest.raises(VolumeError, match="which side is left"):
        list(samples(tmp_path / "head_T1.nii.gz", GEOMETRY))
    with pytest.raises(BrainclipError, match="contrast 'T9'"):
        list(samples(tmp_path / "head_T1.nii.gz", GEOMETRY, contrast="T9"))


def test_transformer_is_one_of_scikit_learn(model: BrainCLIP, grey: np.ndarray) -> None:
    made = SliceEmbedder(model=str(model.folder), contrast="T1")
    assert made.get_params() == {"model": str(model.folder), "contrast": "T1", "device": None}
    copied = clone(made)
    assert copied is not made and copied.get_params() == made.get_params()
    with pytest.raises(Exception, match="not fitted"):
        made.transform([grey])
    stack = np.random.default_rng(2).random((9, SIZE, SIZE), dtype=np.float32)
    rows = copied.fit_transform(stack)
    assert rows.dtype == np.float32 and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert list(copied.get_feature_names_out())[:2] == ["clip0", "clip1"]
    pipeline = make_pipeline(clone(made), Ridge(alpha=1e-6)).fit(stack, np.arange(9.0))
    assert np.allclose(pipeline.predict(stack), np.arange(9), atol=0.5)


def test_public_function_gives_the_rows_of_embed(model: BrainCLIP, grey: np.ndarray) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noise is no brain, and it says so
        assert torch.equal(
            brainclip.embed_image([grey], model=model.folder),
            embed([grey], model=model, check=False).embeddings,
        )
    assert brainclip.embed_text("axial T1 slice", model=model.folder).shape == (1, model.clip.embedding_width)
    assert brainclip.embed_text([], model=model.folder).shape == (0, model.clip.embedding_width)
    assert brainclip.embed_image([], model=model.folder).shape == (0, model.clip.embedding_width)


def test_a_device_that_is_not_there_is_refused(model: BrainCLIP, grey: np.ndarray) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    for name in ("cuda", "graphics card"):
        with pytest.raises(BrainclipError, match=f"device '{name}' is not there"):
            embed([grey], model=model, device=name, check=False)
    with pytest.raises(BrainclipError, match="device 'cuda' is not there"):
        brainclip.embed_image([grey], model=model, device="cuda", progress=True)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_embeddings(model: BrainCLIP, grey: np.ndarray) -> None:
    on_gpu = embed([grey], model=model, device="cuda", check=False).embeddings
    assert torch.allclose(on_gpu, embed([grey], model=model, check=False).embeddings, atol=1e-3)
