"""Recipe of the study: tasks, arms (training sets) and how a classifier is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from brainclip.errors import RecipeError

FILLS = ("", "repeat", "synthetic")
TWINS = ("pictures", "same")


@dataclass(frozen=True)
class TaskRecipe:
    """What the classifier tells, and of which slices. labels: a name in tasks.LABELS.

    people, per_person: training people, and slices of each in every plane and contrast, drawn by the recipe's
    seed; tested: slices of each test person; 0: all. bands: ages in years at which age bands meet. minority:
    the label of which arms with kept < 1 lose people. adapter: of the model, for the synthetic slices, as
    `generate` takes it. twins: "same" puts the real slices with other lesions in the place of synthetic ones,
    to tell what the pictures bring from what a second lesion brings.
    """

    labels: str = ""
    pairs: tuple[str, ...] = ()
    test: tuple[str, ...] = ("test",)  # splits whose people are tested
    planes: tuple[str, ...] = ("axial",)
    modalities: tuple[str, ...] = ("T1",)
    from_mm: float = -100.0
    to_mm: float = 100.0
    people: int = 0
    per_person: int = 0
    tested: int = 0
    bands: tuple[float, ...] = (40.0, 60.0)
    minority: str = ""
    adapter: str = "auto"
    lesions: tuple[str, ...] = ("sclerosis",)  # kinds of atlas.lesions that half of the slices are given
    lesion_mm: tuple[float, ...] = (4.0, 8.0)  # their sizes, from and to
    lesion_contrast: float = 1.0
    twins: str = "pictures"
    arms: tuple[str, ...] = ()  # empty: all


@dataclass(frozen=True)
class ArmRecipe:
    """A training set. Shares are of the task's training people, whose order is drawn by the run's seed.

    real: the slices of the first people. synthetic: pictures for the facts of the slices of the last people,
    one for each slice, so that shares with the sum 1 hold the same facts as all the real slices do.
    steps: 0: as many epochs of this set as of any; 1: as many steps as all the real slices take; 2: twice.
    kept: share of the people with the task's minority label that stay; what the others had is left out
    (fill = ""), made up by repeating what stays ("repeat"), or by synthetic slices of the same facts
    ("synthetic"). pretrain: the synthetic slices first, then the real ones alone.
    against: arms to compare with. gap: two arms, the lower first; how much of their difference is closed.
    """

    real: float = 0.0
    synthetic: float = 0.0
    steps: float = 0.0
    kept: float = 1.0
    fill: str = ""
    pretrain: bool = False
    against: tuple[str, ...] = ()
    gap: tuple[str, ...] = ()


@dataclass(frozen=True)
class DownstreamRecipe:
    """Tasks x arms x seeds. The network is trained by Adam at a constant rate without augmentation."""

    folder: str = "runs/downstream"
    model: str = "mini"
    seeds: tuple[int, ...] = (0, 1, 2)
    network: str = "small"  # or "resnet34", from random weights
    size: int = 64  # pixels along a side to which slices are resized
    width: int = 16  # of the small network
    epochs: int = 30
    batch: int = 32
    rate: float = 1e-3
    precision: str = "no"
    device: str = "auto"
    save_every: int = 1000  # steps; a stopped training goes on from there
    seed: int = 0  # of the choice of people and slices, and of the synthetic slices
    task: dict[str, TaskRecipe] = field(default_factory=dict)
    arm: dict[str, ArmRecipe] = field(default_factory=dict)

    def arms_of(self, task: str) -> tuple[str, ...]:
        """The names of a task's arms, in the order of the recipe."""
        return tuple(name for name in self.arm if name in (self.task[task].arms or self.arm))


def check(recipe: DownstreamRecipe) -> None:
    """RecipeError, one sentence, for what cannot be run, before any work."""
    from brainclip.evaluate.downstream.networks import NETWORKS
    from brainclip.evaluate.downstream.tasks import LABELS

    if not recipe.task or not recipe.arm:
        raise RecipeError("the study needs a [task.NAME] and an [arm.NAME] at least")
    if len(set(recipe.seeds)) < 2:
        raise RecipeError(f"seeds = {list(recipe.seeds)}; arms are compared over two seeds at least")
    if recipe.network not in NETWORKS:
        raise RecipeError(f"network = {recipe.network!r}; possible are {', '.join(NETWORKS)}")
    for name, task in recipe.task.items():
        if task.labels not in LABELS:
            raise RecipeError(f"task.{name}.labels = {task.labels!r}; possible are {', '.join(LABELS)}")
        if task.twins not in (TWINS if task.labels == "lesion" else TWINS[:1]):
            raise RecipeError(
                f"task.{name}.twins = {task.twins!r}; possible are 'pictures', and 'same' for labels 'lesion'"
            )
        if not task.pairs:
            raise RecipeError(f"[task.{name}] needs pairs, folders of slices")
        if "train" in task.test:
            raise RecipeError(f"task.{name}.test has 'train', the people that the model was trained on")
        if unknown := sorted(set(task.arms) - set(recipe.arm)):
            raise RecipeError(f"task.{name}.arms: no table [arm.{unknown[0]}]")
        if not task.minority and (cut := [arm for arm in recipe.arms_of(name) if recipe.arm[arm].kept < 1]):
            raise RecipeError(f"[arm.{cut[0]}] has kept < 1, but [task.{name}] names no minority")
    for name, arm in recipe.arm.items():
        if arm.fill not in FILLS:
            raise RecipeError(f"arm.{name}.fill = {arm.fill!r}; possible are {', '.join(map(repr, FILLS))}")
        if not (0 <= arm.real <= 1 and 0 <= arm.synthetic <= 1 and arm.real + arm.synthetic > 0):
            raise RecipeError(f"[arm.{name}]: real and synthetic are shares from 0 to 1, not both 0")
        if arm.pretrain and not (arm.real and arm.synthetic):
            raise RecipeError(f"[arm.{name}]: pretrain needs real and synthetic slices")
        if len(arm.gap) not in (0, 2):
            raise RecipeError(f"arm.{name}.gap = {list(arm.gap)}; two arms are needed, the lower first")
        if unknown := sorted({*arm.against, *arm.gap} - set(recipe.arm)):
            raise RecipeError(f"[arm.{name}] is to be compared with {unknown[0]!r}, which is no [arm]")
