"""Noise schedules: what a diffusion network predicts, and the samplers that take the noise away again.

The schedulers are those of diffusers. It and torch are imported when one is made, so that a recipe can be
checked without them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainclip.config import DecoderRecipe, DenoisingRecipe
from brainclip.errors import RecipeError, WeightsError

if TYPE_CHECKING:
    from torch import Generator, Tensor

FLOW = "flow"
OBJECTIVES = (FLOW, "epsilon", "v_prediction", "sample")  # the last three as diffusers names them
FLOW_SAMPLERS = {"euler": "FlowMatchEulerDiscreteScheduler"}
SAMPLERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm-solver": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
# Mini's schedule: that of Stable Diffusion. The cosine's last level keeps 5e-5 of the amplitude: clean
# latents that follow from predicted noise would have its error 20,000 times.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "timestep_spacing": "trailing",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}


def objective_of(scheduler: Any) -> str:
    """What the network of a decoder with this scheduler predicts: one of OBJECTIVES."""
    return FLOW if type(scheduler).__name__ in FLOW_SAMPLERS.values() else scheduler.config.prediction_type


def check_schedule(recipe: DecoderRecipe, objective: str) -> None:
    """RecipeError for names that are not known and for what the objective does not allow."""
    if objective not in OBJECTIVES:
        raise RecipeError(f"decoder.objective = {objective!r}: possible are {', '.join(OBJECTIVES)}")
    samplers = FLOW_SAMPLERS if objective == FLOW else SAMPLERS
    if recipe.sampler and recipe.sampler not in samplers:
        raise RecipeError(
            f"decoder.sampler = {recipe.sampler!r}: possible for the objective {objective!r} are "
            f"{', '.join(samplers)}"
        )
    if recipe.zero_terminal_snr and objective not in ("v_prediction", "sample"):
        why = "ends in noise alone already" if objective == FLOW else "says nothing where only noise is left"
        raise RecipeError(
            f"decoder.zero_terminal_snr: the objective {objective!r} {why}; give v_prediction or sample, or "
            "leave it out"
        )


def check_weights(recipe: DenoisingRecipe, objective: str) -> None:
    """RecipeError where a recipe weighs noise levels and its objective has no weights."""
    if recipe.min_snr and objective == FLOW:
        raise RecipeError(
            f"min_snr = {recipe.min_snr:g}: the flow has no weights, it draws middle times more often; "
            f"leave it out, or give decoder.objective = {' or '.join(OBJECTIVES[1:])}"
        )


def new_scheduler(recipe: DecoderRecipe, published: Any = None) -> Any:
    """The scheduler of a recipe, over the schedule of a published one, or mini's.

    The last step gives back the predicted clean latents, which are never clipped: they exceed +-1.
    RecipeError as check_schedule raises it.
    """
    objective = recipe.objective or (objective_of(published) if published else FLOW)
    check_schedule(recipe, objective)
    if objective == FLOW:
        name = FLOW_SAMPLERS["euler"]
        return published if type(published).__name__ == name else _class(name)()
    schedule = dict(SCHEDULE)
    if published is not None and objective_of(published) != FLOW:
        schedule = {key: published.config.get(key, value) for key, value in SCHEDULE.items()}
    if recipe.zero_terminal_snr:
        schedule |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}  # begins at noise alone
    schedule |= {"prediction_type": objective, "clip_sample": False, "set_alpha_to_one": True}
    kind = _class(SAMPLERS[recipe.sampler or "ddim"])
    taken = _arguments(kind.__init__)
    return kind(**{key: value for key, value in schedule.items() if key in taken})


def training_scheduler(scheduler: Any) -> Any:
    """What adds noise in training: the flow's scheduler itself, else a DDPMScheduler of its schedule."""
    if objective_of(scheduler) == FLOW:
        return scheduler
    kept = {key: scheduler.config[key] for key in (*SCHEDULE, "prediction_type")}
    return _class("DDPMScheduler")(**kept)


def load_scheduler(folder: Path) -> Any:
    """The scheduler in a folder with a scheduler_config.json. WeightsError for one that is not known."""
    from brainclip.weights import read_json

    config = read_json(folder / "scheduler_config.json")
    name = str(config.get("_class_name"))
    kind = getattr(importlib.import_module("diffusers"), name, None)
    by_betas = kind is not None and {"beta_schedule", "prediction_type"} <= set(_arguments(kind.__init__))
    if not (by_betas or name in FLOW_SAMPLERS.values()):
        known = ", ".join([*FLOW_SAMPLERS.values(), *SAMPLERS.values()])
        raise WeightsError(
            f"{folder}: unknown scheduler {name!r}; possible are {known}, and others of diffusers with betas"
        )
    return _class(name).from_config(config)


def _class(name: str) -> Any:
    return getattr(importlib.import_module("diffusers"), name)


def denoised(
    scheduler: Any,
    noise: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int,
    generators: Sequence[Generator],
    start: Tensor | None = None,
    strength: float = 1.0,
    keep: Tensor | None = None,
) -> Tensor:
    """What the sampler makes of white noise (B, ...) in so many steps; row k depends on row k alone.

    predict: the network's answer to noisy rows at a time (). generators: of the rows, for samplers that
    draw more noise. start: clean latents (B, ...), which the noise is added to as of the last `strength` of
    the steps, at least one, and only these are gone (Meng et al. 2022, SDEdit); None: from noise alone.
    keep: bool, of a start's shape or less, where it stays as it is, at each step with the noise of that
    step (Lugmayr et al. 2022, without their repeats).
    """
    flow = objective_of(scheduler) == FLOW
    more = {"generator": list(generators)} if "generator" in _arguments(scheduler.step) else {}
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps

    def noised(times: Tensor) -> Tensor:
        """The start with the noise of the first of these times; as it is where none is left."""
        assert start is not None
        if not len(times):
            return start
        add = scheduler.scale_noise if flow else scheduler.add_noise
        name = "timestep" if flow else "timesteps"
        return add(start, noise=noise, **{name: times[:1].expand(len(noise))})

    if start is None:
        x = noise if flow else noise * scheduler.init_noise_sigma
    else:
        begin = len(timesteps) - max(1, round(len(timesteps) * strength))
        timesteps = timesteps[begin:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        x = noised(timesteps)
    for number, timestep in enumerate(timesteps):
        shown = x if flow else scheduler.scale_model_input(x, timestep)
        found = scheduler.step(predict(shown, timestep), timestep, x, **more)
        x = found.prev_sample
        if number + 1 == len(timesteps) and type(scheduler).__name__ == SAMPLERS["ddim"]:
            x = found.pred_original_sample  # it counts back by 1000 // steps; by 7, some noise would be left
        if keep is not None:
            x = noised(timesteps[number + 1 :]).where(keep, x)
    return x


def _arguments(function: Any) -> Mapping[str, Any]:
    return inspect.signature(function).parameters
