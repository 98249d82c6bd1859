"""A recipe's run: made, opened, trained and judged."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from .._html import beside, curve, facts
from .._version import __version__
from ..backends import Auto, Dense
from ..data import Images, load, lost_readers
from ..errors import DataError, InputError
from ..models import Classifier
from ..networks import ContinuousTimeNeuralGraph, NeuralGraph
from .checkpoint import CHECKPOINT, RECIPE, digest, read_checkpoint, write_checkpoint, write_json
from .classification import Classification
from .distributed import choose_device, current
from .folder import INITIAL, Seen, check_free, last_round, making
from .lineage import changes_of, changes_of_images, check_source, recorded, take_over, with_whole_paths
from .loop import Loop
from .opening import describe, grown, make_model, preprocessing_of, read_recipe
from .progress import Progress
from .recipe import Recipe
from .watching import Watcher


class Run:
    """One training run and its folder.

    The folder holds ``recipe.json`` (the recipe with what produced it), ``checkpoint.safetensors``
    (everything needed to go on), ``metrics.csv`` (a line per epoch; see
    :class:`~neuralgraph.training.log.Log`) and, once it trains, ``wiring.history`` (which edges were real
    when; see :func:`neuralgraph.training.history`). The order of the images depends on seed and epoch only,
    and their augmentation on the image too, so a continued run does exactly what an undisturbed one would
    have done.

    In processes that torchrun started and :func:`neuralgraph.training.join` brought together, each
    takes its part of every batch; gradients are averaged, metrics summed, and only the first writes.

    Use :meth:`create` for a new run and :meth:`open` for one that exists.
    """

    def __init__(self, recipe: Recipe, folder: Path, data: Images, device: str = "cpu", growth: Sequence[dict[str, Any]] = (),
                 source: Path | None = None):
        self.recipe, self.folder, self.data = recipe, folder, data
        self.ranks, self.device = current(), choose_device(device)
        if recipe.precision == "bfloat16" and self.device.type == "cuda" and \
                not torch.cuda.is_bf16_supported():
            raise InputError("precision=bfloat16, but this GPU does not have it; use precision=float32.")
        self._check_fits(recipe, data)
        self.images = describe(data)
        self.growth = list(growth)  # what was split on the way to the present size
        self.model = grown(make_model(recipe, self.images), {"growth": self.growth}, source or folder).to(self.device)
        self.model.preprocessing = preprocessing_of(data, recipe)
        self._check_compiles()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=recipe.lr, momentum=recipe.momentum,
            weight_decay=recipe.weight_decay, nesterov=recipe.nesterov)
        self.task = Classification(recipe, data, self.ranks, self.device)
        self._check_images_fit()
        self.model.eval()
        self.loop = Loop(self.model, self.task, self.optimizer, folder, epochs=recipe.epochs,
                         schedule=recipe.factor, ranks=self.ranks, device=self.device, compiled=recipe.torch_compile,
                         notes={"preprocessing": self.model.preprocessing.to_json()}
                         | ({"growth": self.growth} if self.growth else {}))
        self.changes: list[dict] = []  # of settings and images since the run began
        self._to_write: Recipe | None = None  # a recipe that the folder does not have yet
        self._save_first = False  # the checkpoint lacks what newer ones hold

    # Making and opening

    @classmethod
    def create(cls, recipe: Recipe, folder: str | Path, data: Images | None = None, *,
               device: str = "cpu", workers: int | None = None) -> Run:
        """A new run; its folder must be new or empty.

        Args:
            recipe: what to train and how.
            folder: of the run.
            data: the images, if they are loaded already.
            device: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one.
            workers: processes that decode images, see :func:`neuralgraph.data.load`.

        Raises:
            RunError: if the folder holds something already, or another process is at it.
            InputError, DataError, UnknownNameError: for a recipe that cannot be run; the folder is
                not made then.
        """
        if recipe.grow is not None:
            raise InputError(f"grow={recipe.grow} trains in several rounds: use neuralgraph.training.GrowingRun.")
        return cls._create(recipe, Path(folder), data, device, workers)

    @classmethod
    def grow_from(cls, run: Run, folder: Path, model: Classifier, growth: dict[str, Any]) -> Run:
        """A new run, like another, of a model that has grown from that one's.

        Args:
            run: the other.
            folder: of the new one.
            model: what has grown.
            growth: how, as :attr:`~neuralgraph.growing.SplitReport.growth` says.
        """
        return cls._create(run.recipe, folder, run.data, str(run.device), None, [*run.growth, growth], model)

    @classmethod
    def _create(cls, recipe, folder, data, device, workers, growth=(), model=None) -> Run:
        recipe = with_whole_paths(recipe)
        if current().is_first:
            check_free(folder)
        run = cls(recipe, folder, data or load_images(recipe, workers), device, growth)
        if model is not None:
            run.model.load_state_dict(model.state_dict())
        elif check_source(recipe):
            assert recipe.source is not None
            take_over(run.model, recipe, cls.open(recipe.source, run.data, device=str(run.device)))
        run.loop.turnover.begin()
        run._check_ranks_agree()
        if not run.ranks.is_first:
            return run
        with making(folder):
            if recipe.selector == "complete":  # a lottery ticket may be drawn from it
                write_checkpoint(folder / INITIAL, run.model.state_dict(), {})
            run.loop.save()
            run._write_recipe(recipe)
        return run

    @classmethod
    def open(cls, folder: str | Path, data: Images | None = None, backend: str | None = None, *,
             device: str = "cpu", workers: int | None = None,
             settings: dict[str, str] | None = None, accept_changes: bool = False) -> Run:
        """The run in ``folder`` as its last checkpoint left it; nothing is written before it is trained.

        Of a run that grows it is the last round.

        Args:
            folder: of the run.
            data: the images, if they are loaded already.
            backend: instead of the recipe's, for this time.
            device, workers: as for :meth:`create`.
            settings: fields of the recipe, as text, to compare with those the run began with; only
                ``data``, the path of the images, may differ if the images do not.
            accept_changes: go on although settings or images differ; the folder keeps a record of it.

        Raises:
            CheckpointError: if a file is missing, damaged or foreign.
            RunError: if settings or images are not those the run began with.
        """
        folder = last_round(Path(folder))
        seen = Seen(folder)  # before anything is read
        saved, description = read_recipe(folder)
        recipe = with_whole_paths(saved.with_settings(settings or {}))
        changes = changes_of(recipe, saved, folder, accept_changes)
        path = folder / CHECKPOINT
        tensors, state = read_checkpoint(path)
        in_use = recipe if backend is None else dataclasses.replace(recipe, backend=backend)
        run = cls(in_use, folder, data or load_images(recipe, workers), device, state.get("growth", []), path)
        changes |= changes_of_images(run.images, description["data"], folder, accept_changes)
        run.loop.seen = seen
        run.loop.load(tensors, state, path)
        if not run.progress.seen:  # which format 2 left to be told from the number of steps
            run.progress.seen = min(run.progress.step * recipe.batch_size, run.data.num_train)
        run.changes = [*description.get("changes", []), *recorded(changes, run.progress)]
        run._check_ranks_agree()
        run._to_write = recipe if recipe != saved or changes else None
        run._save_first = state.get("preprocessing") != run.loop.notes["preprocessing"]
        return run

    @staticmethod
    def _check_fits(recipe: Recipe, data: Images) -> None:
        """Refuses, before anything is made, a recipe that these images cannot serve."""
        if data.num_train == 0 or data.num_test == 0:
            raise DataError(f"{data.name} has {data.num_train} training and {data.num_test} test images; "
                            "a run needs both, so add images or a folder of test images.")
        if recipe.batch_size > data.num_train:
            raise InputError(f"batch_size={recipe.batch_size}, but {data.name} has only "
                             f"{data.num_train} training images; choose a smaller batch.")
        if recipe.batch_size < current().size:
            raise InputError(f"batch_size={recipe.batch_size} is too few for {current().size} processes.")
        if recipe.crop_padding > min(data.size):
            raise InputError(f"crop_padding={recipe.crop_padding} is more than the "
                             f"{min(data.size)} pixels of an image; choose less.")

    def _check_compiles(self) -> None:
        """Refuses to have torch compile what it cannot look into."""
        if self.recipe.torch_compile is None:
            return
        for network in (module for module in self.model.modules() if isinstance(module, NeuralGraph)):
            if isinstance(network, ContinuousTimeNeuralGraph):
                raise InputError("torch_compile: the solver of a continuous-time model decides by the numbers what comes "
                                 "next, which torch.compile cannot record; use torch_compile=none.")
            if not isinstance(network.backend, Dense) and (self.device.type == "cpu" or not isinstance(network.backend, Auto)):
                raise InputError(f"torch_compile: torch cannot look into the backend {self.recipe.backend!r} on "
                                 f"{self.device}; use backend=dense, or torch_compile=none.")

    def _check_images_fit(self) -> None:
        """Refuses images that are too small for the model, and a batch of one image where batch norms then
        see a single value, before an epoch is over."""
        recipe = self.recipe
        if recipe.epochs == 0:
            return
        one, model = torch.zeros(1, self.data.channels, *self.data.size, device=self.device), copy.deepcopy(self.model)
        with torch.no_grad():
            model.eval()(one)
        last = self.data.num_train % recipe.batch_size or recipe.batch_size
        if min(last, recipe.batch_size) // self.ranks.size > 1:
            return
        try:
            with torch.no_grad():
                model.train()(one)
        except ValueError as error:
            if "more than" not in str(error):
                raise
            raise InputError(
                f"batch_size={recipe.batch_size} leaves a batch of one image for some step of "
                f"{self.data.num_train} images, on which batch norms of this model cannot train ({error}): "
                "choose another batch_size.") from error

    def _check_ranks_agree(self) -> None:
        """Finds processes with another configuration, other images, versions or weights."""
        self.ranks.check_same({
            "the recipe": self.recipe.to_json(), "the images": self.images["fingerprint"],
            "the progress": vars(self.progress), "neuralgraph": __version__, "torch": torch.__version__,
            "the weights": digest(self.model.state_dict())})

    # Training

    @property
    def progress(self) -> Progress:
        return self.loop.progress

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    @property
    def steps_per_epoch(self) -> int:
        return self.loop.steps_per_epoch

    @property
    def is_finished(self) -> bool:
        return self.loop.is_finished

    def train(self, watcher: Watcher | None = None, check_ranks: bool = False) -> list[dict[str, Any]]:
        """Trains to the end and returns the metrics of all epochs.

        Args:
            watcher: hears of every step and epoch.
            check_ranks: compare the real edges of all processes after every step.

        Raises:
            Interrupted: after Ctrl-C, SIGTERM or SIGHUP, once the current step is done and everything is
                saved.
            DataError: if an image on disk has changed or gone.
            RunError: if the folder cannot be written, or another process trains this run, has done so
                since it was opened, or is lost; the last checkpoint is intact.
        """
        with self.loop.alone(), lost_readers(), _products(self.recipe.precision):
            if self.ranks.is_first and self._to_write is not None:
                self._write_recipe(self._to_write)
            if self._save_first:
                self.loop.save()
            self._to_write, self._save_first = None, False
            return self.loop.train(self, watcher or Watcher(), check_ranks)

    def evaluate(self) -> tuple[float, float, float]:
        """Accuracy (top-1 and top-5, per cent) and mean loss on the test images, in evaluation mode."""
        self.ranks.spread_buffers(self.model)
        with _products(self.recipe.precision):
            return self.task.evaluate(self.model.eval())

    def _repr_html_(self) -> str:
        """The recipe, what came out of it so far, and what the model's wiring is now."""
        rows, recipe = self.progress.rows, self.recipe
        best = max(rows, key=lambda row: row["test_accuracy"], default={})
        known = {"selector": recipe.selector, "images": self.images["name"], "epochs": f"{len(rows)} of {recipe.epochs}",
                 "test accuracy (%)": rows[-1]["test_accuracy"] if rows else None,
                 "best (%)": best.get("test_accuracy"), "in epoch": best.get("epoch"),
                 "real edges": self.model.num_real_edges, "multiply-adds": rows[-1]["multiply_adds"] if rows else None}
        learned = curve({"test accuracy": [(row["epoch"], row["test_accuracy"]) for row in rows]}, "epoch",
                        "test accuracy (%)")
        return beside(facts(known, f"{recipe.name} in {self.folder}"),
                      learned, self.model._repr_html_() or "")

    def _write_recipe(self, recipe: Recipe) -> None:
        """The recipe, the images and what produced the run."""
        content: dict[str, object] = {"recipe": recipe.to_json(), "data": self.images, "versions": versions()}
        if self.changes:
            content["changes"] = self.changes
        write_json(self.folder / RECIPE, content)
        self.loop.seen.remember()


def versions() -> dict[str, str]:
    """What produced a run."""
    return {"neuralgraph": __version__, "torch": torch.__version__, "python": platform.python_version()}


def load_images(recipe: Recipe, workers: int | None) -> Images:
    if recipe.data is None:
        raise InputError(f"the recipe {recipe.name!r} has no images of its own; name some with --data.")
    return load(recipe.data, recipe.image_size, recipe.resized_crop, workers)


@contextlib.contextmanager
def _products(precision: str) -> Iterator[None]:
    """Products of matrices as precise as a recipe says, for a while, if it says so."""
    if precision not in ("high", "medium"):
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
