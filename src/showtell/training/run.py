"""A whole run, from a recipe to a bundle: phases, validation, the best epoch, checkpoints, resuming."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from showtell.bundle import load_weights, made_with, save_bundle, unique_tensors
from showtell.choosing import keep_best_decoding
from showtell.config import PhaseConfig, Recipe
from showtell.data.annotations import CaptionedImage
from showtell.errors import RecipeError, first_line
from showtell.metrics import Protocol, Report, describe
from showtell.model.decoders import check_decoder
from showtell.paths import saved_together
from showtell.progress import Progress, silent
from showtell.training.checkpoint import Position, read_checkpoint, write_checkpoint
from showtell.training.folder import alone_in, check_folder, new_folder, save_recipe
from showtell.training.graphs import recorded
from showtell.training.interrupt import Interrupt
from showtell.training.learner import Learner
from showtell.training.loop import diverged, out_of_memory, too_large, train_steps
from showtell.training.objectives import build_objective
from showtell.training.optim import AveragedWeights, build_optimizer
from showtell.training.others import with_others
from showtell.training.preparing import prepare
from showtell.training.processes import (
    another_ended,
    build_accelerator,
    epoch_seed,
    in_any,
    random_states,
    restore_random_state,
    share,
    tallies,
)
from showtell.training.resuming import check_pictures, check_resumed
from showtell.training.runlog import EpochReport, RunLog
from showtell.training.trackers import Trackers, check_trackers
from showtell.training.validation import validate

_MORE_EPOCHS = 10  # with few images, a phase has at most this many times its epochs


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind. `scores` are the best epoch's on the validation split, with the bundle's decoding;
    epoch 0 is the captioner that the run began with.

    If the decoding was chosen after the last epoch (`train.choose_decoding`), only the main process has its scores and
    protocol.
    """

    bundle: Path
    best_epoch: int
    epochs: int
    scores: dict[str, float]
    protocol: Protocol


def train(
    recipe: Recipe,
    *,
    data: Path | None = None,
    encoder_weights: Path | None = None,
    start: Path | str | None = None,
    teachers: Path | str | Sequence[Path | str] = (),
    out: Path,
    resume: bool = False,
    report: Callable[[EpochReport], None] = lambda report: None,
    note: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> TrainResult:
    """Trains as `recipe` says and leaves the captioner of the best epoch in `out/bundle`.

    `start` is a captioner to start from, a bundle or the hub's `user/name`: see `with_others`. `teachers` are those that
    the recipe's distillation phases imitate.
    `report` is called after every epoch, `note` with sentences for people, `progress` with (what, done, total).
    Raises `RecipeError`, `DataError`, `BundleError` and `DownloadError` for wrong input, before anything is written;
    `KeyboardInterrupt` when interrupted, after a checkpoint; `RecipeError` if the accelerator's memory is too small, if
    weights or losses are no longer finite at the end of an epoch, or if one of several processes has ended.
    """
    if data is not None:
        recipe = recipe.trained_on(data)
    recipe = with_others(
        recipe, start=start, teachers=teachers, encoder_weights=encoder_weights, out=out, resume=resume
    )
    try:
        with alone_in(out):
            run = Run(recipe, encoder_weights=encoder_weights, out=out, resume=resume, note=note, progress=progress)
            result = run.run(report)
            if recipe.train.choose_decoding and run.accelerator.is_main_process:
                choice, protocol = keep_best_decoding(
                    result.bundle, Path(recipe.data.path), search=recipe.search, place=recipe.data.cache,
                    report=lambda tried: note(str(tried)), progress=progress,
                )  # fmt: skip
                note(f"best decoding: {choice.search.describe()}")
                return replace(result, scores=choice.best.scores, protocol=protocol)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(error) from None
    except RuntimeError as error:
        if not another_ended(error):
            raise
        raise RecipeError(
            f"another process of this training has ended ({first_line(error)}); see what it said, and add --resume to go on "
            "with as many"
        ) from None
    return result


class Run:
    """One training run: its phases and epochs, how far it has come, and its checkpoints."""

    learner: Learner  # of the current phase

    def __init__(
        self,
        recipe: Recipe,
        *,
        encoder_weights: Path | None,
        out: Path,
        resume: bool,
        note: Callable[[str], None],
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.recipe, self.out, self._note, self._progress = recipe, out, note, progress
        self.checkpoint = out / "checkpoint.safetensors"
        resuming = check_folder(out, recipe, resume=resume)
        check_decoder(recipe.decoder)
        check_trackers(recipe.train.trackers)
        torch.set_flush_denormal(True)  # denormals make an optimizer step more than ten times slower
        self.accelerator = build_accelerator(recipe.train, out=out, note=note)
        prepared = prepare(
            recipe, encoder_weights=encoder_weights, own=out / "features", device=self.accelerator.device,
            note=note, progress=progress,
        )  # fmt: skip
        self.model, self.samples = prepared.model, prepared.samples
        self.encodings, self.teachers = prepared.encodings, prepared.teachers
        self._weights_name = encoder_weights.name if encoder_weights is not None else ""
        self.position = Position(
            data=self.samples.fingerprint,
            val=self.samples.val_fingerprint,
            encoder=self.encodings.began_with,
            words=self.samples.vocabulary.fingerprint(),
        )
        tensors = self._go_on() if resuming else {}
        self._trackers = None
        if recipe.train.trackers and self.accelerator.is_main_process:
            self._trackers = Trackers(self.accelerator, recipe, run=out.name, note=note)
        with new_folder(out):
            self._start_phase(tensors)
        if not resuming:  # caches have just learned what is in the files
            self.position.pictures = self.samples.pictures_fingerprint(self.encodings.shared)
        if self.accelerator.is_main_process:
            save_recipe(out, recipe)

    def _go_on(self) -> dict[str, Tensor]:
        """Restores the run from its checkpoint, and returns the checkpoint's tensors."""
        began = self.position
        tensors, self.position = read_checkpoint(self.checkpoint)
        found = replace(
            began,
            teachers=self.teachers.fingerprint if self.teachers else "",
            processes=self.accelerator.num_processes,
        )
        check_resumed(self.position, found, samples=self.samples, recipe=self.recipe, out=self.out)
        found.pictures = self.samples.pictures_fingerprint(self.encodings.shared)
        check_pictures(self.position, found.pictures, out=self.out)
        for name in ("words", "val", "pictures"):  # from now on, also where an earlier version did not record them
            setattr(self.position, name, getattr(found, name))
        if not saved_together(self.out / "bundle"):  # killed while it saved: the epoch that is done again is kept
            self.position.forget_best()
        if "tallies" in tensors:
            total, weight = tensors["tallies"][self.accelerator.process_index].tolist()
            self.position.total, self.position.weight = total, int(weight)
        self._restore_model(tensors)
        return tensors

    @property
    def phase(self) -> PhaseConfig:
        """The current phase."""
        return self.recipe.train.phases[self.position.phase]

    def run(self, report: Callable[[EpochReport], None]) -> TrainResult:
        """Runs the remaining epochs."""
        if self.recipe.train.start and not (self.position.epoch or self.position.step):
            self._keep_start()
        log = None
        if self.accelerator.is_main_process:
            log = RunLog(self.out, keep_epochs=self.position.epoch, trackers=self._trackers)
        with Interrupt() as interrupt:
            while self.position.phase < len(self.recipe.phases()):
                if self._phase_is_over():
                    with interrupt.at_once():  # encodings made so far are kept
                        self._next_phase()
                    self._save()
                    continue
                started = time.monotonic()
                try:
                    for _ in self._epoch():
                        if in_any(self.accelerator, interrupt.asked):
                            self._save()
                            raise KeyboardInterrupt
                except torch.OutOfMemoryError as error:
                    raise too_large(self.recipe, self.position.phase, error) from None
                self._check_finite()
                epoch = self._finish_epoch(started)
                if log is not None:
                    log.write(epoch)
                    report(epoch)
                self._save()
                if in_any(self.accelerator, interrupt.asked):
                    raise KeyboardInterrupt
        if log is not None:
            log.close()
            shutil.rmtree(self.out / "features", ignore_errors=True)
        return self._result()

    def _keep_start(self) -> None:
        """Scores the captioner to begin with, which is the best so far: training may make it no better."""
        _, scores, scored = self._validate()
        self._note(f"before training: CIDEr {100 * scores['cider']:.1f} on the validation split")
        self.position.keep(scores)
        if scored is not None:
            self._save_bundle(scored)
        self._save()

    def _epoch(self) -> Iterator[None]:
        """Trains to the end of the current epoch; yields after each optimizer step."""
        place, train = self.position, self.recipe.train
        saved = place.step
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        if place.step == 0:
            torch.manual_seed(epoch_seed(train.seed, place.epoch, rank=rank))
        batch_images = self.phase.batch_images or train.batch_images
        order = self.samples.order(place.epoch, batch_images=batch_images)
        order = share(order, rank=rank, world=world)
        total, place.processes = len(order), world
        steps = train_steps(
            self.samples.batches(order[place.step :], encoder=self.model.encoder, phase=self.phase, epoch=place.epoch),
            learner=self.learner,
            accelerator=self.accelerator,
            train=train,
            before=place.phase_epoch * total,
            first_step=place.step,
            epoch_steps=total,
        )
        for done in steps:
            place.step += 1
            place.total += done.value * done.weight
            place.weight += done.weight
            self._progress(f"epoch {place.epoch + 1}", place.step, total)
            place.lr = done.lr
            if not done.complete:
                continue
            if train.checkpoint_steps and place.step - saved >= train.checkpoint_steps and place.step < total:
                self._check_finite()
                self._save()
                saved = place.step
            yield

    def _check_finite(self) -> None:
        """Raises `RecipeError` in all processes if weights or losses are not finite in one of them."""
        place, out = self.position, self.out
        if bool(self.accelerator.gather(self.learner.finite(place.total)).all()):
            return
        kept = f"{place.best()}, the best so far, stays in {out / 'bundle'}" if place.best() else ""
        half = self.accelerator.mixed_precision != "no"
        raise diverged(
            self.recipe, place.phase, epoch=place.epoch + 1, kept=kept or f"{out} has no captioner yet", half=half
        )

    def _finish_epoch(self, started: float) -> EpochReport:
        """Validates, keeps the bundle if it is the best so far, and reports the epoch."""
        place = self.position
        with self.learner.averages():
            candidates, scores, scored = self._validate()
            best = place.better(scores)
            place.epoch += 1
            place.phase_epoch += 1
            if best:
                place.keep(scores)
                if scored is not None:
                    self._save_bundle(scored)
            place.stale = 0 if best or place.best_cider <= 0 else place.stale + 1  # a slow start is no end
        total, weight = tallies(self.accelerator, place.total, place.weight).sum(0).tolist()
        self_critical, mean = self.phase.objective == "self-critical", total / max(1, weight)
        report = EpochReport(
            epoch=place.epoch,
            phase=place.phase + 1,
            train_loss=None if self_critical else mean,
            reward=mean if self_critical else None,
            statistics=describe(candidates, self.samples.captions),
            lr=place.lr,
            scores=scores,
            protocol=None if scored is None else scored.protocol,
            samples=_three(self.samples.val, candidates),
            seconds=time.monotonic() - started,
            best=best,
            trains_encoder=bool(self.phase.encoder_from),
        )
        place.step, place.total, place.weight = 0, 0.0, 0
        return report

    def _validate(self) -> tuple[list[str], dict[str, float], Report | None]:
        return validate(
            self.model, self.samples, search=self.recipe.search, encode=self.encodings.encode,
            accelerator=self.accelerator,
        )  # fmt: skip

    def _phase_is_over(self) -> bool:
        place = self.position
        epochs = self.learner.epochs
        patience = math.ceil(self.recipe.train.patience * epochs / self.phase.epochs)
        return place.phase_epoch >= epochs or place.stale >= patience

    def _count_epochs(self) -> int:
        """Epochs of the current phase: the recipe's, or, with few images, as many as `min_steps` takes."""
        phase, train = self.phase, self.recipe.train
        batches = math.ceil(len(self.samples.train) / (phase.batch_images or train.batch_images))
        each = max(1, batches // int(self.accelerator.num_processes))
        wanted = math.ceil(phase.min_steps / math.ceil(each / train.accumulate))
        epochs = max(phase.epochs, min(wanted, _MORE_EPOCHS * phase.epochs))
        if epochs > phase.epochs:
            self._note(
                f"phase {self.position.phase + 1}: up to {epochs} epochs, not {phase.epochs}: {len(self.samples.train_images)} images "
                f"are few for {phase.min_steps} steps"
            )
        return epochs

    def _next_phase(self) -> None:
        """Starts the next phase from the best epoch's weights."""
        place = self.position
        self.accelerator.wait_for_everyone()  # the main process may still be writing the weights
        place.phase, place.phase_epoch, place.stale, place.averaged = place.phase + 1, 0, 0, 0
        load_weights(self.out / "bundle", self.model)
        self._start_phase({})

    def _start_phase(self, tensors: dict[str, Tensor]) -> None:
        """Freezes and unfreezes, fills the cache, builds the optimizer. `tensors`: the checkpoint's, when resuming."""
        vars(self).pop("learner", None)  # and with it the recordings of the previous phase
        self.accelerator.free_memory()  # it holds the previous phase's optimizer, and would scale its gradients too
        if self.position.phase >= len(self.recipe.phases()):
            return
        phase, place = self.phase, self.position
        encoder = self.model.encoder
        encoder.requires_grad_(False)
        if phase.encoder_from and phase.cached_views == 1:
            self.samples.from_images()
        else:
            with self.accelerator.main_process_first():
                self.encodings.fill(self.samples, place.phase, tidy=self.accelerator.is_main_process)
        chosen = encoder.unfreeze_from(phase.encoder_from) if phase.encoder_from else []
        encoder.checkpoint_gradients(self.recipe.train.gradient_checkpointing and bool(chosen))
        place.encoder_trained |= bool(chosen)
        learner = self._build_learner(chosen)
        learner.load(tensors, averaged=place.averaged)
        seed = epoch_seed(self.recipe.train.seed, place.epoch, rank=self.accelerator.process_index, step=place.step)
        restore_random_state(tensors, self.accelerator, otherwise=seed)
        learner.model, learner.optimizer = self.accelerator.prepare(self.model, learner.optimizer)
        replayed = recorded(
            self.model, accelerator=self.accelerator, train=self.recipe.train, phase=phase, note=self._note
        )
        learner.model = replayed or learner.model
        self.learner = learner

    def _build_learner(self, blocks: Sequence[Sequence[nn.Parameter]]) -> Learner:
        """The current phase's learner; of the CNN, it trains `blocks`."""
        phase, train = self.phase, self.recipe.train
        trained = {name: tensor for name, tensor in unique_tensors(self.model).items() if tensor.requires_grad}
        return Learner(
            model=self.model,
            objective=build_objective(
                phase, train=train, search=self.recipe.search, vocabulary=self.samples.vocabulary,
                images=self.samples.train_images, teachers=self.teachers, autocast=self.accelerator.autocast,
            ),
            trained=trained,
            optimizer=build_optimizer(
                self.model.decoder.parameters(), blocks, phase=phase, weight_decay=train.weight_decay
            ),
            averaged=AveragedWeights(trained, decay=train.ema) if train.ema else None,
            epochs=self._count_epochs(),
        )  # fmt: skip

    def _save_bundle(self, scored: Report) -> None:
        training = {
            "dataset": self.samples.name, "epoch": self.position.epoch, "phase": self.position.phase + 1 if self.position.epoch else 0,
            "train_images": self.samples.listed, "encoder_weights": self._weights_name,
            "made_with": made_with(self.accelerator.device, self.accelerator.num_processes), **scored.to_dict(),
        }  # fmt: skip
        save_bundle(
            self.out / "bundle", model=self.model, vocabulary=self.samples.vocabulary,
            recipe=self.recipe.given_away(), training=training,
        )  # fmt: skip

    def _save(self) -> None:
        """Writes a checkpoint. All processes call this together, and the main one writes."""
        states, place = random_states(self.accelerator), self.position
        if place.step and self.accelerator.num_processes > 1:
            states["tallies"] = tallies(self.accelerator, place.total, place.weight)
        if not self.accelerator.is_main_process:
            return
        if self.teachers and (place.phase_epoch or place.step) and self.phase.objective == "distillation":
            place.teachers = self.teachers.fingerprint
        model = unique_tensors(self.model)
        tensors = {f"model/{n}": t for n, t in model.items() if n.startswith("decoder.") or place.encoder_trained}
        if place.phase_epoch or place.step:
            place.averaged = self.learner.averaged.count if self.learner.averaged is not None else 0
            tensors |= self.learner.tensors()
        write_checkpoint(self.checkpoint, tensors | states, vars(place))

    @torch.no_grad()
    def _restore_model(self, tensors: dict[str, Tensor]) -> None:
        model = unique_tensors(self.model)
        for name, tensor in tensors.items():
            if name.startswith("model/"):
                model[name.removeprefix("model/")].copy_(tensor)

    def _result(self) -> TrainResult:
        if self.position.best_cider <= 0:
            self._note(
                "no epoch scored above CIDEr 0 on the validation split: the captioner has learnt nothing yet, or all of the split's captions "
                "are alike; train for more epochs, or look at the captions of each epoch in the log"
            )
        training = json.loads((self.out / "bundle" / "config.json").read_text(encoding="utf-8"))["training"]
        return TrainResult(
            self.out / "bundle", self.position.best_epoch, self.position.epoch,
            training["scores"], Protocol.from_dict(training["protocol"]),
        )  # fmt: skip


def _three(images: Sequence[CaptionedImage], candidates: Sequence[str]) -> list[str]:
    draw = random.Random(0)
    chosen = draw.sample(range(len(images)), min(3, len(images)))
    return [f"{images[i].image_id}: {candidates[i]}" for i in chosen]
