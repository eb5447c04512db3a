"""Brain extraction: grids and orientations, cavities, tools that are missing or fail, damaged weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel import Nifti1Image
from safetensors.torch import load_file, save_file
from scipy import ndimage

import atlas.brain
import atlas.prepare
import atlas.strip
from atlas.begin import begin, check_begun
from atlas.errors import PairsError, VolumeError, WeightsError
from atlas.prepare import Settings
from atlas.slices import Geometry
from atlas.sources import Scan
from atlas.strip import METHODS, WEIGHTS, at_grid, brain_mask, check_method, filled
from atlas.strip_network import (
    BrainNetwork,
    from_blocks,
    load_network,
    probability,
    save_network,
    scaled,
    to_blocks,
)
from atlas.volume import load_volume, save_volume
from atlas.workers import THREADS, _prepare_on_dask
from brainclip import cli

WIDTHS = (4, 4, 4, 4, 4)


class Threshold(torch.nn.Module):
    """Stands before a U-Net's answer, so that the whole path can be followed with known logits."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        return 40 * (blocks - 0.5) + 0 * self.unet(blocks)


@pytest.fixture
def threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network answers where the scaled image is above one half."""
    torch.manual_seed(0)
    network = BrainNetwork(WIDTHS).eval()
    network.unet = Threshold(network.unet)
    monkeypatch.setattr("atlas.strip_network.load_network", lambda path: network)


def egg(shape: tuple[int, int, int] = (76, 84, 68), spacing_mm: float = 2.0) -> Nifti1Image:
    """A bright egg of about 1.3 litres, RAS+; a knob in the subject's left, a speck far off, a cavity."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = (-70.0, -90.0, -60.0)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    x, y, z = (nib.affines.apply_affine(affine, np.moveaxis(grid, 0, -1))).transpose(3, 0, 1, 2)
    inside = (x / 62) ** 2 + (y / 80) ** 2 + (z / 60) ** 2 < 1
    inside |= (x + 58) ** 2 + y**2 + z**2 < 18**2
    inside &= x**2 + (y - 20) ** 2 + z**2 > 10**2
    inside |= (x - 68) ** 2 + (y + 82) ** 2 + (z - 60) ** 2 < 6**2
    return Nifti1Image((100.0 * inside).astype(np.float32), affine)


def in_orientation(image: Nifti1Image, codes: str) -> Nifti1Image:
    """The same image with its voxels stored in another order."""
    transform = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    return image.as_reoriented(transform)


def test_mask_is_one_filled_piece_on_the_own_grid_and_left_stays_left(threshold: None) -> None:
    volume = egg()
    mask = brain_mask(volume)
    inside = np.asanyarray(mask.dataobj)
    assert mask.shape == volume.shape
    assert inside.dtype == np.uint8 and set(np.unique(inside)) == {0, 1}
    assert np.array_equal(mask.affine, volume.affine)
    bright = np.asanyarray(volume.dataobj) > 0
    wanted = ndimage.label(bright)[0] == 1
    assert np.array_equal(inside == 1, ndimage.binary_fill_holes(wanted))
    assert not bright[35, 55, 30] and inside[35, 55, 30]  # the cavity
    assert not inside[-2:, :5, -6:].any()  # the speck
    left, right = inside[:38].sum(), inside[38:].sum()
    assert left > 1.02 * right  # the knob


@pytest.mark.parametrize("codes", ["LIA", "PSR", "LAS"])
def test_other_orders_of_the_axes_give_the_same_mask(threshold: None, codes: str) -> None:
    volume = egg()
    turned = in_orientation(volume, codes)
    assert nib.aff2axcodes(turned.affine) == tuple(codes)
    mask = brain_mask(turned)
    assert mask.shape == turned.shape
    assert np.array_equal(mask.affine, turned.affine)
    back = nib.as_closest_canonical(mask)
    assert np.array_equal(np.asanyarray(back.dataobj), np.asanyarray(brain_mask(volume).dataobj))


def test_thick_slices_and_fine_voxels_keep_the_outline(threshold: None) -> None:
    volume = egg()
    whole = np.asanyarray(brain_mask(volume).dataobj)
    affine = volume.affine @ np.diag([0.5, 0.5, 2.75, 1.0])  # 1 x 1 x 5.5 mm
    grid = atlas.strip.resample(volume, affine, (152, 168, 25))
    mask = brain_mask(grid)
    assert mask.shape == (152, 168, 25)
    millilitres = [float(whole.sum()) * 8 / 1000, float(np.asanyarray(mask.dataobj).sum()) * 5.5 / 1000]
    assert millilitres[1] == pytest.approx(millilitres[0], rel=0.04)  # half a thick slice at either end


def test_oblique_volume_is_masked_in_the_world(threshold: None) -> None:
    volume = egg()
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    oblique = Nifti1Image(np.asanyarray(volume.dataobj), turn @ volume.affine)
    mask = brain_mask(oblique)
    assert np.array_equal(mask.affine, oblique.affine)
    straight = np.asanyarray(brain_mask(volume).dataobj)
    same = 2 * (np.asanyarray(mask.dataobj) & straight).sum() / (np.asanyarray(mask.dataobj) + straight).sum()
    assert same > 0.98  # interpolated twice


def test_too_little_and_too_much_brain_are_refused_with_the_number(threshold: None) -> None:
    small = Nifti1Image(np.asanyarray(egg().dataobj), np.diag([1.2, 1.2, 1.2, 1.0]))
    with pytest.raises(VolumeError, match=r"network finds \d+ ml of brain, not 600 to 2500"):
        brain_mask(small)
    large = Nifti1Image(np.asanyarray(egg().dataobj), np.diag([3.0, 3.0, 3.0, 1.0]))
    with pytest.raises(VolumeError, match=r"network finds \d{4} ml"):
        brain_mask(large)
    with pytest.raises(VolumeError, match="takes 3-D"):
        brain_mask(Nifti1Image(np.zeros((8, 8, 8, 2), np.float32), np.eye(4)))


def test_blocks_are_undone_and_keep_neighbours_together() -> None:
    image = torch.arange(4 * 6 * 8, dtype=torch.float32).reshape(1, 1, 4, 6, 8)
    blocks = to_blocks(image)
    assert blocks.shape == (1, 8, 2, 3, 4)
    assert torch.equal(from_blocks(blocks), image)
    assert torch.equal(blocks[0, :, 1, 2, 3], image[0, 0, 2:, 4:, 6:].flatten())


def test_scaling_does_not_depend_on_units_or_on_the_air_around() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(40, 44, 36)
    image[8:32, 8:36, 8:28] = torch.rand(24, 28, 20, generator=generator)
    once = scaled(image)
    assert torch.allclose(scaled(3000 * image), once, atol=1e-5)
    air = torch.nn.functional.pad(image, (20,) * 6)
    assert torch.allclose(scaled(air)[20:-20, 20:-20, 20:-20], once, atol=0.02)  # a percentile of samples
    assert (once.min(), once.max()) >= (0, 1) and once.max() <= 1.2


def test_probability_is_that_of_the_mirror_image_mirrored_and_repeats_bit_for_bit() -> None:
    torch.manual_seed(0)
    network = BrainNetwork(WIDTHS).eval()
    image = np.random.default_rng(0).random((40, 70, 66), dtype=np.float32)
    found = probability(image, network)
    assert found.shape == image.shape
    assert np.array_equal(found, probability(image, network))
    assert np.ptp(found) > 0
    # the scale is a percentile of every other voxel, and those are others in the mirror image
    assert np.allclose(probability(image[::-1], network)[::-1], found, atol=1e-3)


def test_weights_survive_the_file_and_a_damaged_one_is_one_sentence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, path = BrainNetwork(WIDTHS), tmp_path / "strip.safetensors"
    save_network(network, path)
    loaded = load_network(path)
    assert loaded.widths == WIDTHS
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())
    state = load_file(path)

    def refusal(name: str) -> str:
        with pytest.raises(WeightsError) as caught:
            load_network(tmp_path / name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "missing" in refusal("absent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:5000])
    assert "damaged" in refusal("cut.safetensors")
    save_file(state, tmp_path / "plain.safetensors")  # no widths: another kind of weights
    assert "damaged" in refusal("plain.safetensors")
    first = sorted(state)[0]
    fewer = {name: value for name, value in state.items() if name != first}
    save_file(fewer, tmp_path / "fewer.safetensors", metadata={"widths": "4 4 4 4 4"})
    assert f"1 tensors do not fit the network, first {first!r}" in refusal("fewer.safetensors")
    save_file(state, tmp_path / "wide.safetensors", metadata={"widths": "8 4 4 4 4"})
    assert "do not fit" in refusal("wide.safetensors")


def test_unknown_method_and_missing_tool_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VolumeError, match="unknown brain extraction 'bet'; possible: network"):
        check_method("bet")
    for method in METHODS[1:]:
        with pytest.raises(VolumeError, match=f"{method} is not installed"):
            brain_mask(egg(), method=method)
    assert cli.main(["pairs", "bids", "scans", "--out", "pairs", "--strip", "hd-bet"]) == 2
    error = capsys.readouterr().err
    assert "hd-bet is not installed" in error and error.count("\n") == 1


@pytest.mark.parametrize("method", METHODS[1:])
def test_an_installed_tool_is_run_and_its_mask_used(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = egg()
    wanted = Nifti1Image((np.asanyarray(volume.dataobj) > 0).astype(np.uint8), volume.affine)
    save_volume(wanted, tmp_path / "wanted.nii.gz")
    option, ending = ("-m", "$3") if method == "mri_synthstrip" else ("-o", "${3%.nii.gz}_bet.nii.gz")
    script = f'#!/bin/sh\nshift\n[ "$2" = {option} ] && /bin/cp {tmp_path}/wanted.nii.gz "{ending}"\n'
    program = tmp_path / method
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    turned = in_orientation(volume, "LIA")
    mask = brain_mask(turned, method=method)
    assert np.array_equal(mask.affine, turned.affine)
    found = np.asanyarray(nib.as_closest_canonical(mask).dataobj) == 1
    assert found[35, 55, 30] and not found[-2:, :5, -6:].any()
    assert np.array_equal(
        found & (np.asanyarray(volume.dataobj) > 0), found & (np.asanyarray(wanted.dataobj) == 1)
    )
    program.write_text("#!/bin/sh\necho loading\necho 'no licence found' >&2\nexit 3\n")
    with pytest.raises(VolumeError, match=r"wrote no mask \(exit code 3, last words: no licence found"):
        brain_mask(volume, method=method)


def test_cavities_open_to_the_outside_stay() -> None:
    mask = np.zeros((7, 8, 9), bool)
    mask[1:6, 1:7, 1:8] = True
    mask[3, 3, 3] = False
    mask[0:3, 5, 5] = False
    assert filled(mask)[3, 3, 3]
    assert np.array_equal(filled(mask)[:, 5, 5], mask[:, 5, 5])


def test_grid_of_the_network_covers_the_volume_at_2_mm() -> None:
    volume = in_orientation(egg((70, 81, 62), 1.0), "PSR")
    on_grid = at_grid(volume)
    assert np.allclose(nib.affines.voxel_sizes(on_grid.affine), 2)
    assert nib.aff2axcodes(on_grid.affine) == ("R", "A", "S")
    assert on_grid.shape == (36, 41, 32)


def test_whole_head_without_a_mask_is_stripped_and_the_record_says_so(
    threshold: None, tmp_path: Path
) -> None:
    volume = egg()
    head = Nifti1Image(np.asanyarray(volume.dataobj) + 10, volume.affine)  # air is not 0: a whole head
    save_volume(head, tmp_path / "head.nii.gz")
    scan = Scan("bids", "a", "", "T1", tmp_path / "head.nii.gz")
    brain, mask, origin = atlas.brain.read_brain(scan, "network")
    assert origin == "network"
    inside = np.asanyarray(brain_mask(head).dataobj) == 1
    assert np.array_equal(np.asanyarray(mask.dataobj) == 1, inside)
    assert np.array_equal(np.asanyarray(brain.dataobj) > 0, inside)
    save_volume(volume, tmp_path / "stripped.nii.gz")
    scan = Scan("bids", "a", "", "T1", tmp_path / "stripped.nii.gz")
    assert atlas.brain.read_brain(scan, "network")[2] == "above 0"
    save_volume(Nifti1Image(inside.astype(np.int32), head.affine), tmp_path / "mask.nii.gz")
    scan = Scan("bids", "a", "", "T1", tmp_path / "head.nii.gz", mask=tmp_path / "mask.nii.gz")
    assert atlas.brain.read_brain(scan, "network")[2] == "given"


def test_missing_weights_stop_the_run_and_no_scan_is_called_bad(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    volume = egg()
    save_volume(Nifti1Image(np.asanyarray(volume.dataobj) + 10, volume.affine), tmp_path / "head.nii.gz")
    scan = Scan("bids", "a", "", "T1", tmp_path / "head.nii.gz")

    def absent(volume: Nifti1Image, *, method: str) -> Nifti1Image:
        return brain_mask(volume, method=method, weights=tmp_path / "absent.safetensors")

    monkeypatch.setattr("atlas.brain.brain_mask", absent)
    rejected: list[dict[str, str]] = []
    with pytest.raises(WeightsError, match="weights of the brain extraction are missing"):
        atlas.prepare._prepare_session([scan], Settings(Geometry(64, 3.0), 9.0, 0), rejected)
    assert rejected == []


def test_whole_head_whose_file_does_not_say_left_is_stripped_in_its_documented_orientation(
    threshold: None, tmp_path: Path
) -> None:
    volume = egg()
    head = Nifti1Image(np.asanyarray(volume.dataobj) + 10, volume.affine)
    values = np.ascontiguousarray(in_orientation(head, "ASL").dataobj)
    nib.save(nib.AnalyzeImage(values, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "head.img")
    scan = Scan("oasis1", "a", "", "T1", tmp_path / "head.img", orientation="ASL")
    brain, mask, origin = atlas.brain.read_brain(scan, "network")
    assert origin == "network" and nib.aff2axcodes(brain.affine) == ("R", "A", "S")
    found, wanted = np.asanyarray(mask.dataobj) == 1, np.asanyarray(brain_mask(head).dataobj) == 1
    assert np.array_equal(found, wanted)
    assert found[:38].sum() > 1.02 * found[38:].sum()  # the knob in the subject's left


def test_pairs_begun_before_there_was_a_choice_go_on_under_the_default_and_a_change_is_refused(
    tmp_path: Path,
) -> None:
    out, settings = tmp_path / "out", Settings(Geometry(64, 3.0), 9.0, 0)
    other = replace(settings, strip="hd-bet")

    def start(settings: Settings, keep: tuple[str, ...] = ()) -> dict[str, str]:
        check_begun(out, "bids", settings, keep)
        return begin(out, "bids", settings, {"a": "a"}, (1.0, 0.0, 0.0), keep)

    assert start(settings) == {"a": "train"}
    older = json.loads((out / "settings.json").read_text())
    assert older.pop("strip") == "network" and "keep" not in older
    for _ in range(2):  # as it is written now, then as it was written before
        assert start(settings) == {"a": "train"}
        with pytest.raises(PairsError, match="strip = 'network', now strip = 'hd-bet'"):
            start(other)
        with pytest.raises(PairsError, match=r"keep = None, now keep = \['0.5'\]"):
            start(settings, ("0.5",))
        (out / "settings.json").write_text(json.dumps(older))


def test_strip_and_keep_are_both_remembered(tmp_path: Path) -> None:
    settings = Settings(Geometry(64, 3.0), 9.0, 0, strip="mri_synthstrip")
    begun = (tmp_path / "out", "bids", settings, {"a": "a"}, (1.0, 0.0, 0.0))
    assert begin(*begun, ("blank", "0.5")) == {"a": "train"}
    written = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert (written["strip"], written["keep"]) == ("mri_synthstrip", ["0.5", "blank"])
    check_begun(*begun[:3], ("0.5", "blank"))
    with pytest.raises(PairsError, match=r"keep = \['0.5', 'blank'\], now keep = None"):
        check_begun(*begun[:3], ())


def test_a_dask_worker_without_the_tool_stops_before_it_rejects_anyone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PATH", *THREADS):
        monkeypatch.setenv(name, str(tmp_path) if name == "PATH" else "1")
    monkeypatch.chdir(tmp_path)
    scan = Scan("bids", "a", "", "T1", tmp_path / "head.nii.gz")
    job = ([scan], "train", tmp_path / "pairs", Settings(Geometry(64, 3.0), 9.0, 0, strip="hd-bet"))
    with pytest.raises(VolumeError, match="hd-bet is not installed"):
        _prepare_on_dask(str(tmp_path), job)
    assert not (tmp_path / "pairs").exists()


def test_strip_writes_mask_and_picture(
    threshold: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_volume(egg(), tmp_path / "head.nii.gz")
    out, picture = tmp_path / "mask.nii.gz", tmp_path / "outline.png"
    argv = ["strip", str(tmp_path / "head.nii.gz"), "--out", str(out), "--picture", str(picture)]
    assert cli.main([*argv, "--dry-run"]) == 0
    assert not out.exists()
    assert cli.main(argv) == 0
    assert "ml by network" in capsys.readouterr().out
    assert np.array_equal(np.asanyarray(nib.load(out).dataobj), np.asanyarray(brain_mask(egg()).dataobj))
    assert picture.stat().st_size > 1000
    assert cli.main(["strip", str(tmp_path / "head.nii.gz")]) == 2
    assert cli.main([*argv[:2], "--out", argv[1]]) == 2  # the head would be written over
    assert cli.main([*argv[:2], "--out", str(tmp_path / "mask.mgz"), "--dry-run"]) == 2
    assert "written as .nii or .nii.gz" in capsys.readouterr().err
    assert np.array_equal(load_volume(argv[1]).get_fdata(), egg().get_fdata())


def test_strip_writes_the_mask_in_the_order_of_the_file(threshold: None, tmp_path: Path) -> None:
    head = in_orientation(egg(), "PSL")
    nib.save(head, tmp_path / "head.nii.gz")
    assert cli.main(["strip", str(tmp_path / "head.nii.gz"), "--out", str(tmp_path / "mask.nii.gz")]) == 0
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == head.shape != egg().shape
    np.testing.assert_allclose(mask.affine, head.affine)
    again = nib.as_closest_canonical(mask)
    assert np.array_equal(np.asanyarray(again.dataobj), np.asanyarray(brain_mask(egg()).dataobj))


def test_strip_refuses_a_file_that_does_not_say_which_side_is_left(
    threshold: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = egg()
    head.set_sform(None, code=0)
    head.set_qform(None, code=0)
    nib.save(head, tmp_path / "head.nii.gz")
    assert cli.main(["strip", str(tmp_path / "head.nii.gz"), "--out", str(tmp_path / "mask.nii.gz")]) == 2
    assert "does not say which side is left" in capsys.readouterr().err


@pytest.fixture
def bundled() -> Path:
    if not WEIGHTS.is_file():
        pytest.skip("atlas/weights/strip.safetensors is absent: its training is not finished")
    return WEIGHTS


def test_noise_is_no_head(bundled: Path) -> None:
    noise = np.random.default_rng(0).random((80, 80, 80)).astype(np.float32)
    with pytest.raises(VolumeError, match="no clear brain: the network is not sure"):
        brain_mask(Nifti1Image(noise, np.diag([2.0, 2.0, 2.0, 1.0])))


def test_bundled_weights_are_small_and_fit(bundled: Path) -> None:
    assert bundled.stat().st_size < 5_000_000
    assert load_network(bundled).widths == (16, 32, 64, 96, 96)


@pytest.mark.slow
def test_bundled_network_agrees_with_the_reference_in_any_order(bundled: Path, real_data: Path) -> None:
    name = "IXI012-HH-1211-T1"
    head: Nifti1Image = nib.load(real_data / "ixi" / f"{name}.nii.gz")  # type: ignore[assignment]
    true = np.asanyarray(nib.load(real_data / "ixi-dlmuse" / f"{name}_DLMUSE.nii.gz").dataobj) > 0
    found = np.asanyarray(brain_mask(head).dataobj) == 1
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.95
    turned = brain_mask(nib.as_closest_canonical(head))
    back = in_orientation(turned, "".join(nib.aff2axcodes(head.affine)))
    assert np.array_equal(np.asanyarray(back.dataobj) == 1, found)


@pytest.mark.slow
def test_stripped_brain_keeps_its_outline(bundled: Path, real_data: Path) -> None:
    name = "IXI013-HH-1212-T1"
    head: Nifti1Image = nib.load(real_data / "ixi" / f"{name}.nii.gz")  # type: ignore[assignment]
    true = np.asanyarray(nib.load(real_data / "ixi-dlmuse" / f"{name}_DLMUSE.nii.gz").dataobj) > 0
    stripped = Nifti1Image(np.where(true, head.get_fdata(), 0).astype(np.float32), head.affine)
    found = np.asanyarray(brain_mask(stripped).dataobj) == 1
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.97
