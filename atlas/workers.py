"""Work side by side: in this process, in several, or, for the subjects of a cohort, on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from atlas.errors import PairsError
from atlas.prepare import Settings, prepare_subject
from atlas.strip import check_method

if TYPE_CHECKING:
    from atlas.sources import Scan

Result = TypeVar("Result")
Job = tuple[Sequence["Scan"], str, Path, Settings]  # what prepare_subject takes
LOCAL = "local"  # the Dask address that stands for a cluster on this machine
THREADS = ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ENDED = (
    "a worker process was ended from outside, most often for want of memory; "
    "run the same command again with fewer workers"
)
_one_subject = threading.Lock()  # ANTs' seed belongs to the whole process


def run(jobs: Sequence[Job], *, workers: int, dask: str | None = None) -> None:
    """Prepare the subjects, with progress on stderr; the same files whichever way it is done.

    dask: LOCAL for a cluster of `workers` processes on this machine, or the address of a scheduler whose
    workers see the same folders under the same paths, and have the program that Settings.strip may name.
    Raises PairsError when a worker is ended from outside, when Dask is not installed, or when no scheduler
    answers; VolumeError when a Dask worker lacks the program.
    """
    if not jobs:
        return
    with tqdm(total=len(jobs), desc="pairs", unit="subject", file=sys.stderr) as bar:
        if dask is not None:
            _run_on_dask(jobs, workers, dask, bar)
        else:
            for _ in each_result(prepare_subject, jobs, workers=workers):
                bar.update()


def each_result(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], *, workers: int
) -> Iterator[tuple[int, Result]]:
    """(index of the job, function(*job)) as they are done: here one after another, or in so many processes.

    Raises PairsError when a process is ended from outside, and what the function raises: nothing new is
    begun then.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from ((index, function(*job)) for index, job in enumerate(jobs))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=begin_worker) as pool:
        running = {pool.submit(function, *job): index for index, job in enumerate(jobs)}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool as error:
            raise PairsError(ENDED) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def begin_worker() -> None:
    """One thread for each worker, so that they do not compete, and an end when the main process is killed."""
    os.environ.update(dict.fromkeys(THREADS, "1"))

    def watch(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)  # else the worker would wait for work for ever

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def _run_on_dask(jobs: Sequence[Job], workers: int, address: str, bar: Any) -> None:
    with _client(address, min(workers, len(jobs))) as client:
        from distributed import KilledWorker, as_completed

        futures = [client.submit(_prepare_on_dask, str(Path.cwd()), job, pure=False) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        except KilledWorker as error:
            raise PairsError(ENDED) from error
        finally:
            client.cancel(futures)  # those that have not begun; when all is done, none


@contextmanager
def _client(address: str, workers: int) -> Iterator[Any]:
    """A client of the scheduler at the address, or of a cluster made here, which ends with it."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise PairsError(
            "Dask is not installed; pip install 'brainclip[dask]', or leave --dask away to use --workers"
        ) from error
    if address == LOCAL:
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(address, timeout=30)
    except (OSError, ValueError) as error:
        raise PairsError(
            f"--dask {address}: no scheduler answers there ({error}); give the address that `dask scheduler` "
            "prints, such as tcp://host:8786, or no address for a cluster on this machine"
        ) from error
    with client:
        yield client


def _prepare_on_dask(folder: str, job: Job) -> dict[str, int]:
    """What prepare_subject returns; folder: where the command was given, for relative paths."""
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        os.chdir(folder)
    except OSError as error:
        raise PairsError(
            f"{folder}: not there on the Dask worker {socket.gethostname()}; its workers need the same "
            "folders under the same paths, on a shared disk"
        ) from error
    # else a worker without the program would reject every whole head, and count its subject as done
    check_method(job[-1].strip)
    with _one_subject:
        return prepare_subject(*job)
