"""Ways to make many runs: one after another, in several processes, on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import torch

from ..data import Images
from ..errors import InputError, MissingPackageError, RunError
from .interrupts import deferred_interrupt
from .job import Job, perform
from .log import METRICS
from .loop import Interrupted
from .memory import keep_freed_memory
from .watching import Watcher

LOOK = 0.5  # seconds between looks at what the processes do
PATIENCE = 60.0  # seconds for what was interrupted to be saved


def choose(jobs: Sequence[Job], data: Images, watcher: Watcher, number: int, threads: int | None,
           ray: str | bool | None) -> Iterator[tuple[Job, dict]]:
    """Makes the runs as :meth:`~neuralgraph.training.comparison.Comparison.run` says; each with what came out."""
    if number < 1 or (threads is not None and threads < 1):
        raise InputError(f"jobs and threads must be at least 1, got {number} and {threads}.")
    if ray:
        if number > 1:
            raise InputError("on a Ray cluster as many runs go at a time as it has processors: leave out jobs.")
        return _on_ray(jobs, None if ray is True else ray, threads or 1, watcher)
    if number > 1:
        return _in_processes(jobs, number, threads or max(1, torch.get_num_threads() // number), watcher)
    return _one_by_one(jobs, data, threads, watcher)


def _one_by_one(jobs, data, threads, watcher):
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        for job in jobs:
            yield job, _timed(job.perform(data, watcher), beside=1)
    finally:
        torch.set_num_threads(before)


def _timed(result: dict, beside: int) -> dict:
    """With how many runs went side by side while this one was made."""
    if result["timed"] is not None:
        result["timed"]["side_by_side"] = beside
    return result


# In several processes

def _in_processes(jobs, number, threads, watcher):
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with deferred_interrupt() as interrupted:
        pool = ProcessPoolExecutor(min(number, len(jobs)), context, _begin, (stop, threads))

        def submit(job):
            # Ctrl-C reaches all processes of a terminal; they are told by this one instead
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                return pool.submit(perform, job)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        def wait(running):
            return wait_for(running, LOOK, FIRST_COMPLETED).done

        try:
            for job, result in _as_they_end(jobs, submit, wait, lambda future: future.result(), interrupted, watcher):
                yield job, _timed(result, beside=number)
        except BrokenProcessPool as error:
            raise RunError("a process that trains was lost, killed or out of memory; the same command goes on from "
                           "what is saved, with fewer jobs if memory was short.") from error
        except BaseException:
            stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(stop, threads: int) -> None:
    """The beginning of a process that trains."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()


def _end_with_parent(stop) -> None:
    """Ends this process, as a kill does that lets it save, when it is told to or its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # it was started as another's
    while parent.is_alive() and not stop.wait(LOOK):
        pass
    while True:  # a training that hears it saves and goes on to its end; the next one ends the process
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LOOK)


# On a cluster

def _on_ray(jobs, address, threads, watcher):
    try:
        import ray
    except ImportError:
        raise MissingPackageError("a cluster", "ray", "ray") from None
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    devices = 1 if jobs and jobs[0].device.startswith("cuda") else 0
    task = ray.remote(num_cpus=threads, num_gpus=devices)(_perform_on_ray)
    begun = []

    def submit(job):
        begun.append(task.remote(replace(job, folder=job.folder.resolve()), threads))
        return begun[-1]

    def wait(running):
        return ray.wait(list(running), num_returns=1, timeout=LOOK)[0]

    def result_of(reference):
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise RunError(f"a run on the cluster was lost ({error}); the same command goes on from what is "
                           "saved.") from error

    try:
        with deferred_interrupt() as interrupted:
            beside = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
            for job, result in _as_they_end(jobs, submit, wait, result_of, interrupted, watcher):
                yield job, _timed({**result, "folder": str(job.folder)}, beside=min(beside, len(jobs)))
    except BaseException:
        for reference in begun:
            ray.cancel(reference)  # which a training hears as Ctrl-C
        ray.wait(begun, num_returns=len(begun), timeout=PATIENCE)
        raise
    finally:
        if is_ours:
            ray.shutdown()


def _perform_on_ray(job: Job, threads: int) -> dict:
    torch.set_num_threads(threads)
    return perform(job)


# What both have in common

def _as_they_end(jobs: Sequence[Job], submit: Callable, wait: Callable, result_of: Callable,
                 interrupted: threading.Event, watcher: Watcher) -> Iterator[tuple[Job, dict]]:
    """Submits each job as soon as the one it comes after is done."""
    waiting, done = list(jobs), set()
    running: dict[Any, Job] = {}
    while waiting or running:
        ready = [job for job in waiting if job.after is None or (job.after, job.seed) in done]
        waiting = [job for job in waiting if job not in ready]
        running |= {submit(job): job for job in ready}
        for future in wait(running):
            job = running.pop(future)
            done.add((job.name, job.seed))
            yield job, result_of(future)
        if interrupted.is_set():
            raise Interrupted(f"stopped when {len(done)} of {len(jobs)} runs were done; what was begun is saved.")
        watcher.waited(sum(map(_epochs_done, jobs)), sum(job.recipe.epochs for job in jobs))


def _epochs_done(job: Job) -> int:
    """As its folder says."""
    try:
        with (job.folder / METRICS).open("rb") as file:
            return max(0, sum(1 for _ in file) - 1)
    except OSError:
        return 0
