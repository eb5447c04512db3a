"""A healthy cohort made from anatomies: warps, ageing, four contrasts, scanner effects, and true labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from atlas.anatomy import (
    CORTEX_REGIONS,
    HULL_EDGE,
    TISSUES,
    Anatomy,
    load_anatomy,
    native_ventricles_ml,
)
from atlas.errors import SourceError
from atlas.simulate_files import write_description, write_participants, write_subject
from atlas.simulate_shape import (
    CSF,
    Person,
    add_lesions,
    age_cortex,
    apply_affine,
    draw_person,
    generator_for,
    output_grid,
    sample,
    sample_labels,
    warped_positions,
)
from atlas.simulate_signal import draw_scanner, picture, smooth_field, tissue_values, weights_of_texture
from atlas.slices import MODALITIES

__all__ = ["Anatomy", "Simulated", "load_anatomy", "simulate_subject", "write_cohort"]

Task = tuple[Path, list[int], int, float, Path | None]  # folder, numbers, seed, spacing in mm, label map
TEXTURE = (0.008, 0.03, 0.03)  # relative scatter of proton density, T1 and T2 within a tissue
SUBJECTS_AT_ONCE = 12  # with one anatomy, which takes 10 s to load


@dataclass(frozen=True, eq=False)
class Simulated:
    """One simulated person: float32 images by modality, zero outside the brain, and int32 labels."""

    images: dict[str, nib.Nifti1Image]
    labels: nib.Nifti1Image
    age: float
    sex: str
    seed: int


def simulate_subject(
    anatomy: Anatomy,
    *,
    seed: int,
    age: float | None = None,
    sex: str | None = None,
    modalities: Sequence[str] = MODALITIES,
    spacing_mm: float = 1.0,
) -> Simulated:
    """One simulated person on a grid near MNI152, brain only.

    age in years (18 to 90) and sex ("female" or "male") are drawn when not given. The result depends on
    (anatomy, seed, age, sex, spacing) alone; a seed at two ages is the same person, younger and older.
    Raises SourceError for an age, sex or modality outside these.
    """
    person = draw_person(seed, age, sex)
    for modality in modalities:
        if modality not in MODALITIES:
            raise SourceError(f"modality {modality!r}; possible: {', '.join(MODALITIES)}")
    affine, shape = output_grid(spacing_mm)
    positions = warped_positions(anatomy, person, seed, affine, shape)
    voxels = apply_affine(np.linalg.inv(anatomy.affine), positions)

    tissues = sample(torch.from_numpy(anatomy.tissues), voxels)
    white, ventricle, hull, cerebellum, sulci = sample(torch.from_numpy(anatomy.maps()), voxels)
    tissues = age_cortex(tissues, white, sulci, person, generator_for(seed, "ageing"), spacing_mm)
    lesions = generator_for(seed, "lesions")
    tissues = add_lesions(tissues, ventricle, white, cerebellum, person, lesions, spacing_mm)

    brain = hull > HULL_EDGE
    labels = sample_labels(anatomy.labels, voxels)
    in_fluid = np.isin(labels, CORTEX_REGIONS) & (tissues[CSF] > 0.5).numpy()
    labels[in_fluid | ~brain.numpy()] = 0
    pictures = scan(tissues, brain, person, seed, modalities, spacing_mm)
    images = {modality: nib.Nifti1Image(data.numpy(), affine) for modality, data in pictures.items()}
    return Simulated(images, nib.Nifti1Image(labels, affine), person.age, person.sex, seed)


def scan(
    tissues: Tensor, brain: Tensor, person: Person, seed: int, modalities: Sequence[str], spacing_mm: float
) -> dict[str, Tensor]:
    """Pictures by modality, (X, Y, Z) float32, zero outside `brain`, from fractions of TISSUES and lesion."""
    shape = tuple(brain.shape)
    scanner = draw_scanner(generator_for(seed, "scanner"))
    values = tissue_values((*TISSUES, "lesion"), person.age, generator_for(seed, "tissues"))
    generator = generator_for(seed, "texture")
    fine = smooth_field(generator, shape, 1.1 / spacing_mm)
    broad = smooth_field(generator, shape, 5.0 / spacing_mm, 3)
    texture = (0.5 * fine + 0.5 * broad) * torch.tensor(TEXTURE)[:, None, None, None]
    texture *= 1 - tissues[CSF]  # fluid is even
    pictures = {}
    for modality in modalities:
        generator = generator_for(seed, modality)
        bias = torch.exp(scanner.bias * smooth_field(generator, shape, 45 / spacing_mm)[0])
        image = picture(
            weights_of_texture(modality, values, scanner),
            tissues,
            texture,
            brain=brain,
            psf=scanner.blur_mm / spacing_mm,
            bias=bias,
            noise=scanner.noise / spacing_mm,  # larger voxels, less noise
            generator=generator,
        )
        pictures[modality] = image * brain
    return pictures


def write_cohort(
    folder: Path | str,
    *,
    subjects: int,
    spacing_mm: float = 1.5,
    seed: int = 0,
    anatomies: Path | str | None = None,
    workers: int = 2,
    start: int = 0,
) -> None:
    """Nothing; `folder` then holds subjects `start` + 1 to `start` + `subjects` in a BIDS-like layout.

    Images int16 in steps of 1/1000, labels int32, participants.tsv. Subject k depends on (seed, k, anatomies)
    alone. Finished subjects are kept, so an interrupted run continues. Raises SourceError for an anatomies
    folder without label maps, and for a folder that holds a cohort of another seed, spacing or anatomies.
    """
    folder = Path(folder)
    bases = anatomy_files(anatomies)
    folder.mkdir(parents=True, exist_ok=True)
    write_description(folder, seed=seed, spacing_mm=spacing_mm, label_maps=[p.name for p in bases if p])
    by_anatomy: dict[Path | None, list[int]] = {}
    for number in range(start, start + subjects):
        if not subject_folder(folder, number).exists():
            by_anatomy.setdefault(anatomy_of(seed, number, bases), []).append(number)
    tasks = [
        (folder, numbers[i : i + SUBJECTS_AT_ONCE], seed, spacing_mm, base)
        for base, numbers in by_anatomy.items()
        for i in range(0, len(numbers), SUBJECTS_AT_ONCE)
    ]
    missing = sum(map(len, by_anatomy.values()))
    with tqdm(total=missing, desc="simulate", unit="subject", disable=not tasks) as bar:
        for written in run(tasks, workers):
            bar.update(written)
    write_participants(folder)


def run(tasks: list[Task], workers: int) -> Iterator[int]:
    """What write_subjects returns for each task, in the order of completion; one worker is this process."""
    if workers <= 1 or not tasks:
        yield from map(write_subjects, tasks)
        return
    try:
        with ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn")) as pool:
            for done in as_completed([pool.submit(write_subjects, task) for task in tasks]):
                yield done.result()
    except BrokenProcessPool as error:
        raise SourceError(
            "a worker process was killed, perhaps for lack of memory (3 GB each at 1 mm); "
            "run the same command again to continue, with fewer workers if so"
        ) from error


def anatomy_files(anatomies: Path | str | None) -> dict[Path | None, float]:
    """The anatomies to draw from, the template (None) and every label map, with their ventricles in ml."""
    if anatomies is None:
        return {None: 0.0}
    files = sorted(Path(anatomies).glob("*.nii*"))
    if not files:
        raise SourceError(
            f"{anatomies}: no label maps (*.nii, *.nii.gz) in it; give a folder of them, or none"
        )
    return {None: 0.0, **{path: native_ventricles_ml(path) for path in files}}


def anatomy_of(seed: int, number: int, bases: dict[Path | None, float]) -> Path | None:
    """The anatomy of subject `number`: any whose ventricles are not far too large for this person's age."""
    person = draw_person(subject_seed(seed, number), None, None)
    fitting = [base for base, millilitres in bases.items() if millilitres < 2 * person.ventricles_ml]
    return fitting[int(np.random.SeedSequence([seed, number, 1]).generate_state(1)[0]) % len(fitting)]


def subject_seed(seed: int, number: int) -> int:
    """The seed of subject `number` of a cohort."""
    return int(np.random.SeedSequence([seed, number, 0]).generate_state(1)[0])


def subject_folder(folder: Path, number: int) -> Path:
    """Where subject `number` (from 0) lies; its name counts from 1."""
    return folder / f"sub-{number + 1:04d}"


@lru_cache(maxsize=1)
def cached_anatomy(spacing_mm: float, label_map: Path | None) -> Anatomy:
    """load_anatomy, keeping the last one."""
    return load_anatomy(spacing_mm, label_map)


def write_subjects(task: Task) -> int:
    """How many subjects were written."""
    folder, numbers, seed, spacing_mm, base = task
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one process per core, and the same sums on every machine
    try:
        anatomy = cached_anatomy(spacing_mm, base)
        for number in numbers:
            simulated = simulate_subject(anatomy, seed=subject_seed(seed, number), spacing_mm=spacing_mm)
            facts = {
                "age": simulated.age,
                "sex": simulated.sex,
                "anatomy": anatomy.name,
                "seed": simulated.seed,
            }
            write_subject(subject_folder(folder, number), simulated.images, simulated.labels, facts)
    finally:
        torch.set_num_threads(threads)
    return len(numbers)
