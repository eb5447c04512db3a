"""Push: a model to a hub, after a check whether its pictures are copies of training slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from brainclip.errors import BrainclipError
from brainclip.evaluate.memorisation_study import MemorisationRecipe, run_memorisation
from brainclip.model import load

LEFT = ("*.tmp", ".*")  # files that are not of the model


def push(recipe: MemorisationRecipe, hub_id: str, *, private: bool = False, force: bool = False) -> str:
    """Run the recipe's memorisation check and upload its model's folder to a hub id such as "lab/model".

    Returns a line of result with the verdict, which is the message of the upload as well. Pictures of
    training slices stay here. BrainclipError where the model fails and is not forced, where the recipe does
    not check all that the model draws with, and where the hub refuses.
    """
    model = load(recipe.model)
    checked = [check.adapter for check in recipe.check.values()]
    if missing := [name for name in ("none", *model.adapters) if name not in checked]:
        raise BrainclipError(
            f"{model.name} draws with {_parts(missing)} as well, which the recipe does not check; add a "
            "table [check.NAME] for each"
        )
    verdict = check_before_push(run_memorisation(recipe), model.name, force=force)
    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(hub_id, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=hub_id, folder_path=model.folder, commit_message=verdict, ignore_patterns=list(LEFT)
        )
    except (HTTPError, OSError, ValueError) as error:  # no network, what the hub says, a faulty hub id
        why = str(error).strip().partition("\n")[0]
        raise BrainclipError(f"{hub_id}: the hub did not take it ({why}); `hf auth login` logs in") from None
    return f"{hub_id} ({verdict})"


def _parts(adapters: Sequence[str]) -> str:
    return " and ".join("no adapter" if name == "none" else f"adapter {name}" for name in adapters)


def check_before_push(report: dict[str, Any], model: str, *, force: bool = False) -> str:
    """A sentence to print before a model's weights are published, from the report of run_memorisation.

    BrainclipError when the report is of another model, or a check failed and the push is not forced.
    """
    if report.get("model") != model or not report.get("checks"):
        raise BrainclipError(
            f"the memorisation report is of {report.get('model')!r}, not of {model!r}; run "
            "`brainclip memorisation` on the model that is to be pushed"
        )
    verdicts = {name: found["verdict"] for name, found in report["checks"].items()}
    failed = [name for name, verdict in verdicts.items() if not verdict["passes"]]
    if not failed:
        return f"memorisation: {model} passes ({', '.join(verdicts)})"
    reasons = "; ".join(f"{name}: {'; '.join(verdicts[name]['because'])}" for name in failed)
    if not force:
        raise BrainclipError(
            f"{model} seems to copy training slices and is not pushed ({reasons}); look at the worst pairs, "
            "train on more people or for fewer steps, or force it"
        )
    return f"memorisation: {model} is pushed although it seems to copy training slices ({reasons})"
