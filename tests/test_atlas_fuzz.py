"""Damaged volumes: each is refused with one sentence or loads to a volume that is valid, within bounds.

The files are made and read in a process of its own, so that a crash, a hang or a want of memory is seen.
`python tests/test_atlas_fuzz.py 2000` prints what became of each file.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel import Nifti1Image
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spm99analyze import Spm99AnalyzeHeader, Spm99AnalyzeImage
from scipy.io import savemat

import atlas
from atlas.errors import VolumeError
from atlas.volume import FEWEST_VOXELS, MOST_VOXELS, has_orientation, load_labels, load_volume

SHAPE = (12, 14, 10)
MEMORY = 17 * 2**25 + 2**26  # bytes: 17 a voxel of the largest grid here, and 64 MB
SECONDS = 10.0  # of the processor for one file, which is read three times
HANG = 600  # seconds on the clock
NIFTI = (".nii", ".nii.gz", ".n2.nii", ".n2.nii.gz", ".img", ".img.gz")
PACKED = (".nii.gz", ".n2.nii.gz", ".img.gz", ".mgz")
ENDINGS = (*NIFTI, ".big.img", ".spm.img", ".mgh", ".mgz")  # big: Analyze in OASIS-1's byte order
NUMBERS = (0.0, -1.0, 1e-30, 1e30, 3e38, np.nan, np.inf, -np.inf)
MEMBER = 2**24  # bytes that one piece of a bomb unpacks to


def sound(ending: str, folder: Path, rng: np.random.Generator) -> Path:
    """An undamaged volume: NIfTI 1 or 2, one file or two, Analyze of either byte order, SPM or MGH."""
    dtypes = [">u1", ">i2", ">i4", ">f4"] if ".mg" in ending else ["<u1", "<i2", "<i4", "<f4", "<f8"]
    values = rng.integers(1, 200, SHAPE).astype(rng.choice(dtypes))
    zooms = np.diag([-1.0, 1.5, 2.0, 1.0])
    affine = zooms + np.pad(rng.uniform(-0.1, 0.1, (3, 3)), ((0, 1), (0, 1)))
    path = folder / f"a{ending}"
    if ending == ".big.img":
        image: Any = nib.AnalyzeImage(values, None, nib.AnalyzeHeader(endianness=">"))
    elif ending == ".spm.img":
        image = Spm99AnalyzeImage(values, affine)
    elif ".mg" in ending:
        image = nib.MGHImage(values, affine)
    else:
        kind = nib.Nifti2Image if ".n2" in ending else nib.Nifti1Pair if ".img" in ending else Nifti1Image
        image = kind(values, affine)
        image.set_qform(zooms, code=int(rng.integers(0, 3)))
        image.set_sform(affine, code=int(rng.integers(0, 3)))
    image.set_data_dtype(values.dtype)
    nib.save(image, path)
    return path


def header_file(path: Path) -> Path:
    return path.with_name(path.name.replace(".img", ".hdr"))


def unpacked(path: Path) -> bytearray:
    content = path.read_bytes()
    return bytearray(gzip.decompress(content) if path.suffix in (".gz", ".mgz") else content)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix in (".gz", ".mgz") else content)


def fields_of(path: Path) -> np.dtype:
    """The fields of the header, in the byte order of the file."""
    if ".mg" in path.name:
        return MGHHeader._hdrdtype
    if ".big" in path.name:
        return nib.AnalyzeHeader.template_dtype.newbyteorder(">")
    kind = nib.Nifti2Header if ".n2" in path.name else nib.Nifti1Header
    return Spm99AnalyzeHeader.template_dtype if ".spm" in path.name else kind.template_dtype


def set_fields(path: Path, change: Callable[[np.ndarray], None]) -> None:
    """Change fields of the header where it lies, by a function that is given the header as a record."""
    content, fields = unpacked(header_file(path)), fields_of(path)
    record = np.frombuffer(content, fields, count=1).copy().reshape(())
    with np.errstate(all="ignore"):
        change(record)
    content[: fields.itemsize] = record.tobytes()
    write(header_file(path), content)


def cut(path: Path, rng: np.random.Generator) -> None:
    place = [path, header_file(path)][rng.integers(2)]
    size = place.stat().st_size
    os.truncate(place, int(rng.integers(0, rng.choice([min(size, 600), size]))))


def flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 20)):
        content[rng.integers(len(content))] = rng.integers(256)
    path.write_bytes(content)


def flip_header(path: Path, rng: np.random.Generator) -> None:
    content = unpacked(header_file(path))
    for _ in range(rng.integers(1, 30)):
        content[rng.integers(min(len(content), 600))] = rng.integers(256)
    write(header_file(path), content)


def magic(path: Path, rng: np.random.Generator) -> None:
    content = unpacked(header_file(path))
    place = [0, 344][rng.integers(2)]
    content[place : place + 4] = rng.bytes(4)
    write(header_file(path), content)


def dimensions(path: Path, rng: np.random.Generator) -> None:
    def change(header: np.ndarray) -> None:
        name = "dims" if ".mg" in path.name else "dim"
        top = int(np.iinfo(header[name].dtype).max)
        for k in rng.choice(4, rng.integers(1, 4), replace=False):
            sizes = [-top, -1, 0, 1, 2, 300, 1000, 1024, 1025, 30000, top]
            header[name][k] = sizes[rng.integers(len(sizes))]

    set_fields(path, change)


def affine(path: Path, rng: np.random.Generator) -> None:
    """Numbers that are none, or far too large or small, in the affine."""

    def change(header: np.ndarray) -> None:
        names = ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "qoffset_x", "origin")
        for name in (*names, "Mdc", "Pxyz_c"):
            if name in header.dtype.names and rng.random() < 0.5:
                number = rng.choice(NUMBERS) if header[name].dtype.kind == "f" else 30000
                header[name].reshape(-1)[rng.integers(header[name].size)] = number

    set_fields(path, change)


def singular(path: Path, rng: np.random.Generator) -> None:
    """Rows of the affine that are zero, equal or nearly so, at any scale."""

    def change(header: np.ndarray) -> None:
        factor = rng.choice([0, 1, 1 + 1e-6])
        if "srow_x" in header.dtype.names:
            header["sform_code"] = 1
            header["srow_x"] *= rng.choice([1e-12, 1.0, 1e12])
            header["srow_y"] = factor * header["srow_x"]
        elif "Mdc" in header.dtype.names:
            header["goodRASFlag"] = 1
            header["Mdc"][1] = factor * header["Mdc"][0]
        else:
            header["pixdim"][1:4] = [0, 1e-20, 1e20]

    set_fields(path, change)


def zooms(path: Path, rng: np.random.Generator) -> None:
    def change(header: np.ndarray) -> None:
        name = "delta" if ".mg" in path.name else "pixdim"
        for _ in range(rng.integers(1, 5)):
            header[name][rng.integers(header[name].size)] = rng.choice([-2.0, *NUMBERS])
        if "sform_code" in header.dtype.names:
            header["sform_code"] = 0

    set_fields(path, change)


def voxel_type(path: Path, rng: np.random.Generator) -> None:
    def change(header: np.ndarray) -> None:
        codes = [0, 1, 32, 64, 128, 256, 1024, 1536, 1792, 2048, 2304, -1, 4096]
        header["type" if ".mg" in path.name else "datatype"] = rng.choice(codes)

    set_fields(path, change)


def scale(path: Path, rng: np.random.Generator) -> None:
    def change(header: np.ndarray) -> None:
        header["scl_slope"] = rng.choice([1e300, *NUMBERS])
        header["scl_inter"] = rng.choice([1e300, *NUMBERS])

    set_fields(path, change)


def offset(path: Path, rng: np.random.Generator) -> None:
    def change(header: np.ndarray) -> None:
        number = rng.choice([-400, -1, 1, 17, 352, 5000, 1e9, 1e17, *NUMBERS])
        whole = header["vox_offset"].dtype.kind == "i"  # NIfTI 2
        header["vox_offset"] = int(np.clip(np.nan_to_num(number), -1e18, 1e18)) if whole else number

    set_fields(path, change)


def extensions(path: Path, rng: np.random.Generator) -> None:
    """Extensions that say they are longer than the file, of no length or of a negative one."""
    content, size = unpacked(header_file(path)), fields_of(path).itemsize
    lengths = rng.choice([-(2**31), -16, 0, 1, 8, 15, 16, 24, 2**20, 2**31 - 1], 8)
    table = np.stack([lengths, np.full(8, 6)], axis=-1).astype("<i4")
    content[size : size + 4] = b"\1\0\0\0" + table.tobytes()
    write(header_file(path), content)
    set_fields(path, lambda header: header["vox_offset"].__setitem__((), 1008 if len(content) > 600 else 0))


def bomb(path: Path, rng: np.random.Generator) -> None:
    """A small .gz that unpacks to 0.5 GB at most: behind the volume, within its extensions, as its voxels."""
    content, fields = unpacked(path), fields_of(path)
    record = np.frombuffer(content, fields, count=1).copy().reshape(())
    kind = str(rng.choice(["behind", "one extension", "many extensions", "voxels", "too many voxels"]))
    name, first = ("dims", 0) if ".mg" in path.name else ("dim", 1)
    pattern = b"\0"
    if "extension" in kind and ".nii" in path.name:
        record["vox_offset"] = [0, 2.0**10, 2.0**20, 2.0**23, 2.0**31][rng.integers(5)]
        start = np.array([[0, -16, 2**30][rng.integers(3)], 6], "<i4").tobytes()
        if kind == "many extensions":  # of the least length, without end
            pattern = np.array([rng.choice([8, 16]), 6, 8, 6], "<i4").tobytes()
        content[fields.itemsize :] = b"\1\0\0\0" + start * (kind == "one extension")
    elif "voxels" in kind and ".img" not in path.name:
        record[name][first : first + 3] = (1024, 1024, 1024) if kind == "too many voxels" else (512, 256, 256)
    content[: fields.itemsize] = record.tobytes()
    member = gzip.compress(pattern * (MEMBER // len(pattern)), mtime=0)
    path.write_bytes(gzip.compress(content, mtime=0) + member * int(rng.choice([4, 16, 32])))


def voxels(path: Path, rng: np.random.Generator) -> None:
    """Voxels that are NaN, infinite, negative or all the same."""
    content = unpacked(path)
    length = int(rng.choice([1, 100, 1000, 1600]))
    content[-length:] = [b"\xff", b"\0", b"\x7f", b"\xf8"][rng.integers(4)] * length
    write(path, content)


def foreign(path: Path, rng: np.random.Generator) -> None:
    """Other content under the name of a volume, or half of a pair."""
    kind = rng.integers(8)
    if kind == 0:
        path.write_bytes(b"")
    elif kind == 1:
        path.write_text("participant_id\tage\nsub-01\t30\n" * 20)
    elif kind == 2:
        path.write_bytes(rng.bytes(2000))
    elif kind == 3:
        path.write_bytes(gzip.compress(gzip.compress(path.read_bytes())))
    elif kind == 4:  # packed, but not so named, or the reverse
        path.write_bytes(
            unpacked(path) if path.suffix in (".gz", ".mgz") else gzip.compress(path.read_bytes())
        )
    elif kind == 5:
        header_file(path).unlink()
    elif kind == 6:  # the header of another file
        nib.save(Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4)), path.parent / "b.nii")
        shutil.copy(path.parent / "b.nii", header_file(path))
    else:
        path.unlink()
        path.mkdir()


def matrix(path: Path, rng: np.random.Generator) -> None:
    """The .mat file that SPM lays beside an image: damaged, without a matrix or with one of another shape."""
    place = path.with_name("a.spm.mat")
    shape = [(4, 4), (3, 3), (4,), (4, 4, 2)][rng.integers(4)]
    savemat(place, {["M", "mat", "N"][rng.integers(3)]: rng.choice(NUMBERS) * np.ones(shape)})
    if rng.random() < 0.7:
        (flip if rng.random() < 0.5 else cut)(place, rng)


DAMAGES: dict[Callable[[Path, np.random.Generator], None], tuple[str, ...]] = {
    **dict.fromkeys((cut, flip, flip_header, magic, dimensions, affine), ENDINGS),
    **dict.fromkeys((singular, zooms, voxel_type, voxels, foreign), ENDINGS),
    **dict.fromkeys((scale, offset, extensions), NIFTI),
    bomb: PACKED,
    matrix: (".spm.img",),
}


def damaged(number: int, folder: Path) -> tuple[str, Path]:
    """The kind of damage, which take turns, and the file; all else is by chance, from the number alone."""
    rng = np.random.default_rng([11, number])
    damage, endings = list(DAMAGES.items())[number % len(DAMAGES)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = sound(endings[rng.integers(len(endings))], folder, rng)
        damage(path, rng)
    return damage.__name__, path


def check_volume(image: Nifti1Image, dtype: type) -> None:
    values = np.asanyarray(image.dataobj)
    assert isinstance(image, Nifti1Image) and values.dtype == dtype and values.ndim == 3
    assert min(values.shape) >= FEWEST_VOXELS and max(values.shape) <= MOST_VOXELS
    assert np.isfinite(values).all()
    assert np.isfinite(image.affine).all() and nib.aff2axcodes(image.affine) == ("R", "A", "S")
    sizes = nib.affines.voxel_sizes(image.affine)
    assert sizes.min() > 0.009 and (sizes * values.shape).max() < 1001, "mm"
    assert abs(np.linalg.det(image.affine[:3, :3] / sizes)) > 0.09
    assert np.abs(np.linalg.inv(image.affine) @ image.affine - np.eye(4)).max() < 1e-6


def judge(path: Path) -> str:
    """ "loaded" or "refused"; an AssertionError, or any error that is not a VolumeError, goes on up."""
    orientation = "" if has_orientation(path) else "LAS"
    outcome = "loaded"
    for load, dtype in ((load_volume, np.float32), (load_labels, np.int32)):
        try:
            check_volume(load(path, orientation=orientation), dtype)
        except VolumeError as error:
            said = str(error)
            if not said.startswith(str(path)) or "\n" in said or len(said) > 600:
                raise AssertionError(f"not one sentence: {said!r}") from error
            outcome = "refused" if load is load_volume else outcome
    return outcome


def fuzz(count: int) -> None:
    """Print a line of JSON a file: kind of damage, name, outcome, processor seconds, peak MB so far."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            kind, path = damaged(number, Path(folder))
            signal.alarm(HANG)
            begun = time.process_time()
            try:
                outcome = judge(path)
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            seconds = time.process_time() - begun
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        row = [number, kind, path.name, outcome, round(seconds, 3), round(peak, 1)]
        print(json.dumps(row), flush=True)  # noqa: T201


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the bound on memory is Linux's")
@pytest.mark.parametrize("count", [64, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_or_valid_within_bounds_of_time_and_memory(count: int) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(atlas.__file__).parents[1])}
    command = [sys.executable, __file__, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"ended with {done.returncode} at file {len(rows)}"
    assert [row for row in rows if row[3] not in ("loaded", "refused") or row[4] > SECONDS] == []
    assert len(rows) == count
    outcomes = Counter(row[3] for row in rows)
    assert outcomes["refused"] > count / 2 and outcomes["loaded"] > count / 10


if __name__ == "__main__":
    fuzz(int(sys.argv[1]))
