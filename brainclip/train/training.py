"""A module being trained: its optimizer, the average of its weights, the processes that share the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from brainclip.config import TrainingRecipe, as_dict
from brainclip.errors import RecipeError, WeightsError
from brainclip.train.optimizers import new_optimizer
from brainclip.train.processes import Batch, fill, sharded, whole_tensor

SAVING = timedelta(hours=2)  # so long the other processes wait while the first one saves or measures


class Training:
    """One process of a run.

    first: whether this process writes files. parameters: the trained ones; with recipe.shard this process's
    part of each (FSDP2), else all of them, and gradients are averaged over the processes (DDP).
    """

    def __init__(
        self,
        objective: nn.Module,
        recipe: TrainingRecipe,
        run: Path,
        rates: Mapping[str, float],
    ) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import InitProcessGroupKwargs

        AcceleratorState._reset_state()  # the stage before may have had another precision
        self.recipe, self.module = recipe, objective
        try:
            self.accelerator = Accelerator(
                cpu=recipe.device == "cpu",
                mixed_precision=recipe.precision,
                log_with=list(recipe.track) or None,
                project_dir=run,
                kwargs_handlers=[InitProcessGroupKwargs(timeout=SAVING)],
            )
        except ValueError as error:  # a precision that this device does not have
            raise RecipeError(f"precision = {recipe.precision!r}: {error}") from None
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.first, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.split = recipe.shard and self.processes > 1
        objective.to(self.device)
        self.wrapped = sharded(objective) if self.split else self.accelerator.prepare(objective)
        trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        self.parameters = list(trained.values())  # a list: walked many times
        own = [
            next((rate for start, rate in rates.items() if name.startswith(start)), None) for name in trained
        ]
        self.optimizer = self.accelerator.prepare(new_optimizer(recipe, self.parameters, own))
        self.average = EMAModel(self.parameters, decay=recipe.ema, foreach=not self.split)
        if recipe.track:
            plain = as_dict(recipe).items()
            numbers = {key: value for key, value in plain if not isinstance(value, list | dict)}
            self.accelerator.init_trackers("brainclip", config=numbers)

    def seed(self, seed: int) -> None:
        """Seed every generator, alike in each process."""
        from accelerate.utils import set_seed

        set_seed(seed)

    def backward(self, part: Batch, share: float, *, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and extras of rows of the batch; `share` of the loss's gradient is added to what is there.

        last: the last rows of a step, after which the processes exchange their gradients.
        """
        joined = last or self.split or self.processes == 1
        with nullcontext() if joined else self.accelerator.no_sync(self.wrapped):
            with self.accelerator.autocast():
                loss, extras = self.wrapped(**part)
            self.accelerator.backward(loss if share == 1 else share * loss)
        return loss, extras

    def optimize(self, rate: Callable[[float | None], float], clip_norm: float) -> float:
        """One step of the optimizer with the gradients that are there; their norm before clipping.

        rate: that of this step, for parameters with a rate of their own or (None) with the recipe's.
        """
        self.accelerator.unscale_gradients()
        norm = nn.utils.clip_grad_norm_(self.parameters, clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(group.get("own_rate"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.step(self.parameters)
        return float(whole_tensor(norm))

    def shared(self, numbers: Mapping[str, Tensor]) -> dict[str, float]:
        """Each number's mean over the processes."""
        if self.processes == 1:
            return {key: float(value) for key, value in numbers.items()}
        means = self.accelerator.reduce(torch.stack([v.reshape(()) for v in numbers.values()]), "mean")
        return dict(zip(numbers, means.tolist(), strict=True))

    def state(self, step: int) -> dict[str, Any]:
        """All that the run goes on from after `step` steps, the same for any number of processes; in the
        first process only. Weights that are not trained are left out: of a LoRA they are nearly all."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        weights, optimizer = get_state_dict(self.module, self._bare_optimizer, options=options)
        shadow = [whole_tensor(value).cpu() for value in self.average.shadow_params]
        scaler = self.accelerator.scaler
        return {
            "step": step,
            "objective": weights,
            "optimizer": optimizer,
            "average": {"shadow_params": shadow, "optimization_step": self.average.optimization_step},
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def resume(self, state: Mapping[str, Any] | None) -> int:
        """Go on from what state() gave; the step to go on with, 0 for a new run."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        if state is None:
            return 0
        options = StateDictOptions(full_state_dict=True, strict=False)
        try:
            self._check_keys(state["objective"])
            # numbers that an optimizer (Prodigy) has of a group only once it has made a step
            groups = zip(self.optimizer.param_groups, state["optimizer"]["param_groups"], strict=True)
            for group, saved in groups:
                group.update({key: value for key, value in saved.items() if key not in group})
            set_state_dict(
                self.module,
                self._bare_optimizer,
                model_state_dict=state["objective"],
                optim_state_dict=state["optimizer"],
                options=options,
            )
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise WeightsError(
                f"the state of this run does not fit its recipe ({str(error).splitlines()[0]}); "
                "was it begun with an older version? delete the run folder to train anew"
            ) from None
        for kept, saved in zip(self.average.shadow_params, state["average"]["shadow_params"], strict=True):
            fill(kept, saved)
        self.average.optimization_step = state["average"]["optimization_step"]
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return int(state["step"])

    def _check_keys(self, saved: Mapping[str, Any]) -> None:
        """KeyError unless all that is trained is there, and nothing that this module does not have."""
        trained = {name for name, p in self.module.named_parameters() if p.requires_grad}
        wrong = sorted((trained - set(saved)) | (set(saved) - set(self.module.state_dict())))
        if wrong:
            raise KeyError(f"{len(wrong)} weights differ, first {wrong[0]!r}")

    def averaged(self, call: Callable[[], None], *, at_the_end: bool = False) -> None:
        """Call it in the first process with the averaged weights in place, then put the trained ones back.

        Split weights are put together for it, which only works at the end: during training nothing is called.
        """
        if self.split and not at_the_end:
            return
        self.module.eval()
        self.average.store(self.parameters)
        self.average.copy_to(self.parameters)
        try:
            if self.split:
                _join(self.module)
            if self.first:
                call()
        finally:
            if not self.split:
                self.average.restore(self.parameters)
        self.accelerator.wait_for_everyone()

    def track(self, numbers: Mapping[str, float], step: int) -> None:
        """Tell the trackers of recipe.track."""
        if self.recipe.track:
            self.accelerator.log(dict(numbers), step=step)

    def stop_tracking(self) -> None:
        """Close the trackers."""
        for tracker in self.accelerator.trackers if self.recipe.track else ():
            tracker.finish()

    @property
    def _bare_optimizer(self) -> torch.optim.Optimizer:
        bare: torch.optim.Optimizer = self.optimizer.optimizer
        return bare


def _join(module: nn.Module) -> None:
    """Put whole weights where this process has parts of them, to save the module; it trains no more."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(whole_tensor(value).detach(), requires_grad=value.requires_grad))
