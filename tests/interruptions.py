"""Fits that are interrupted and resumed, by chance, and a judge of the images that they show.

A chain is a series of runs of one fit. Every run but the first resumes from a checkpoint of an earlier one. A run
writes a journal: the images of each batch it trains on, and the end of each pass over the data. A checkpoint notes the
length of the journal at that time. So the judge knows how much of which pass was done, without Lightning's counters.
"""

import json
import os
import random
import signal
import stat
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops import fit_loop, progress, training_epoch_loop

from lightning_augmix import AugMixCallback
from toy import Data, Recorder, trainer

IMAGES = 8  # in a pass over the data
STEP_HOOKS = [
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "on_train_batch_start",
    "training_step",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "optimizer_step",
    "on_before_zero_grad",
    "lr_scheduler_step",
    "on_train_batch_end",
]
OTHER_HOOKS = [
    "on_train_start",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_validation_start",
    "validation_step",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
]
#: Of the loops' source, as a signal interrupts between any two of them.
LINE = "line"
LOOPS = {module.__file__ for module in (fit_loop, training_epoch_loop, progress)}


class Interrupted(Exception):  # noqa: N818  # it is no error of the tests
    """Ends a run."""


@dataclass(frozen=True)
class Interruption:
    """What ends a run, at the `count`th call of a hook, and where the next run resumes.

    Attributes:
        kind: ``"exception"``: an exception; resumes from Lightning's OnExceptionCheckpoint. ``"requeue"``: Slurm's
            signal; the run goes on for `more` steps; resumes from the checkpoint that Lightning writes at the signal.
            ``"kill"``: the process ends without a word; resumes from the newest of ModelCheckpoint's. ``"stop"``:
            ``trainer.should_stop``, as early stopping and timers have it; resumes likewise. ``"limit"``: the run ends
            after `count` epochs or steps; resumes likewise.
        hook: A hook of the module, or ``"line"``.
        count: Which call, counted from 1 in each run.
        more: See above.
    """

    kind: str
    hook: str
    count: int
    more: int = 0


@dataclass(frozen=True)
class Setting:
    """What stays the same in all runs of a chain."""

    unit: str = "epochs"
    batch_size: int = 2
    workers: int = 0
    persistent: bool = False
    scheduled: bool = False
    saving: dict = field(default_factory=lambda: {"every_n_train_steps": 1})
    trainer: dict = field(default_factory=dict)

    @property
    def batches(self):
        """In a pass over the data."""
        return IMAGES // self.batch_size


def random_chain(seed, workers=(0,), kinds=("exception", "exception", "requeue", "requeue", "kill", "stop", "limit")):
    """A setting and up to five interruptions."""
    draw = random.Random(seed)
    number = draw.choice(workers)
    batch_size = draw.choice([1, 2, 2, 4, 8])
    batches = IMAGES // batch_size
    options = {"limit_val_batches": draw.choice([1.0, 1.0, 0])}
    if draw.random() < 0.3:
        options["accumulate_grad_batches"] = draw.choice([2, 3])
    if draw.random() < 0.4:
        options["val_check_interval"] = draw.choice([1, max(1, batches // 2), 0.5, batches])
    elif draw.random() < 0.3:
        options["check_val_every_n_epoch"] = 2
    savings = [
        {"every_n_train_steps": 1},
        {"every_n_train_steps": 2},
        {"every_n_train_steps": 3},
        {"save_on_train_epoch_end": True},
        {"save_on_train_epoch_end": False},
        {"save_last": True},
    ]
    if options["limit_val_batches"]:
        savings.append({"monitor": "metric", "mode": "max"})
    setting = Setting(
        draw.choice(["epochs", "steps"]),
        batch_size,
        number,
        number > 0 and draw.random() < 0.5,
        draw.random() < 0.3,
        draw.choice(savings),
        options,
    )
    return setting, [random_interruption(draw, batches, kinds) for _ in range(draw.randint(1, 5))]


def random_interruption(draw, batches, kinds):
    kind = draw.choice(kinds)
    if kind == "limit":
        return Interruption(kind, "", draw.randint(1, 2 * batches))
    if draw.random() < 0.7:
        # The last batch of a pass is the one that is not like the others.
        hook = draw.choice(STEP_HOOKS)
        count = draw.choice([draw.randint(1, 2 * batches + 1), batches, 2 * batches])
    else:
        hook, count = draw.choice(OTHER_HOOKS), draw.randint(1, 3)
    return Interruption(kind, hook, count, draw.randint(1, batches + 1))


class Module(Recorder):
    """Keeps a journal, and interrupts itself."""

    def __init__(self, number, journal, interruption, limit, kill=False):
        super().__init__()
        self.number = number
        self.journal = journal
        self.entries = 0
        self.interruption = interruption
        self.limit = limit
        self.kill = kill
        self.calls = dict.fromkeys([LINE, *STEP_HOOKS, *OTHER_HOOKS], 0)
        self.last_step = float("inf")

    def note(self, *entry):
        with self.journal.open("a") as file:
            print(json.dumps(entry), file=file)
        self.entries += 1

    def call(self, hook):
        self.calls[hook] += 1
        if self.calls["training_step"] > min(self.limit, self.last_step):
            raise Interrupted
        if hook == self.interruption.hook and self.calls[hook] == self.interruption.count:
            self.interrupt()

    def interrupt(self):
        kind = self.interruption.kind
        if kind == "stop":
            self.trainer.should_stop = True
        elif kind == "requeue":
            os.kill(os.getpid(), signal.SIGUSR1)
            self.last_step = self.calls["training_step"] + self.interruption.more
        elif self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise Interrupted

    def on_save_checkpoint(self, checkpoint):
        processed = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed
        checkpoint["position"] = [self.number, self.entries, processed]

    def on_load_checkpoint(self, checkpoint):
        self.note("resumed", *checkpoint["position"])

    def training_step(self, batch, batch_idx):
        self.seen["train"].clear()
        loss = super().training_step(batch, batch_idx)
        self.note("batch", batch_idx, [(index, image) for _, index, _, image in self.seen["train"]])
        self.call("training_step")
        return loss

    def on_train_epoch_end(self):
        self.note("end")
        self.call("on_train_epoch_end")

    def validation_step(self, batch, batch_idx):
        self.call("validation_step")
        self.log("metric", float(self.calls["validation_step"]))

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ScheduledModule(Module):
    """Has its loaders made in `configure_optimizers`, before the loops know what a checkpoint says."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


def _interruptible(name):
    def hook(self, *args, **kwargs):
        self.call(name)
        return getattr(super(Module, self), name)(*args, **kwargs)

    return hook


for _name in [*STEP_HOOKS, *OTHER_HOOKS]:
    if _name not in vars(Module):
        setattr(Module, _name, _interruptible(_name))


@contextmanager
def _interrupted_at_lines(module):
    """Counts the lines of the loops that are executed as calls of the hook ``"line"``."""

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in LOOPS:
            return None
        if event == "line":
            module.call(LINE)
        return trace

    if module.interruption.hook != LINE:
        yield
        return
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _slurm(folder):
    """The environment of a Slurm job whose `scontrol` does nothing."""
    scontrol = folder / "scontrol"
    scontrol.write_text("#!/bin/sh\n")
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    variables = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "augmix",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    }
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(setting, interruption, number, folder, ckpt_path, *, kill=False):
    """One run of a chain; returns the checkpoint from which the next one resumes."""
    journal = folder / f"run-{number}.jsonl"
    journal.touch()
    saved = folder / "saved"
    limits = {"max_epochs": 100} if setting.unit == "epochs" else {"max_epochs": -1, "max_steps": 1000}
    if interruption.kind == "limit":
        done = torch.load(ckpt_path) if ckpt_path else {"epoch": 0, "global_step": 0}
        if setting.unit == "epochs":
            limits["max_epochs"] = done["epoch"] + 1 + (interruption.count - 1) // setting.batches
        else:
            limits["max_steps"] = done["global_step"] + interruption.count
    make = ScheduledModule if setting.scheduled else Module
    module = make(number, journal, interruption, 3 * setting.batches + 1, kill)
    callbacks = [
        AugMixCallback(10, seed=1),
        pl.callbacks.ModelCheckpoint(saved, filename=f"{number}-{{step}}", **{"save_top_k": -1, **setting.saving}),
    ]
    if interruption.kind == "exception":
        callbacks.append(pl.callbacks.OnExceptionCheckpoint(folder))
    with _slurm(folder):
        fit = trainer(*callbacks, root=folder, enable_checkpointing=True, **limits, **setting.trainer)
        workers = {"workers": setting.workers, "persistent_workers": setting.persistent} if setting.workers else {}
        data = Data(batch_size=setting.batch_size, **workers)
        try:
            with _interrupted_at_lines(module):
                fit.fit(module, datamodule=data, ckpt_path=ckpt_path)
        except Interrupted:
            pass
    return next_checkpoint(interruption, folder, ckpt_path)


def next_checkpoint(interruption, folder, ckpt_path):
    """The newest checkpoint of the kind that an interruption leaves, or the last one that was used."""
    patterns = {"exception": "on_exception*.ckpt", "requeue": "hpc_ckpt_*.ckpt"}
    written = folder.glob(patterns.get(interruption.kind, "saved/*.ckpt"))
    return max(written, key=lambda path: path.stat().st_mtime_ns, default=ckpt_path)


@dataclass(frozen=True)
class Position:
    """In the data: `batches` of pass `epoch` are done, and Lightning `ended` the pass."""

    epoch: int = 0
    batches: int = 0
    ended: bool = False


class Judge:
    """Follows a chain, and tells whether its images are those of the uninterrupted run.

    Args:
        images: Those of the uninterrupted run: digests by pass and index.
        batches: In a pass over the data.
    """

    def __init__(self, images, batches):
        self.images = images
        self.batches = batches
        self.runs = {}  # by number: where it began, its journal, the pass its images are first of

    def expected(self, begin, batch_idx):
        """The passes that a run's first images may be of, by what is done and by what Lightning takes as done."""
        has_all = begin.batches >= self.batches
        either = [begin.epoch, begin.epoch + 1]
        if batch_idx >= self.batches:  # one batch too many: Lightning shows more images than there are in the pass
            return either
        if batch_idx > 0:  # of a pass that was ended before its time, or of the next, whose first batches are left out
            return either if begin.ended else [begin.epoch]
        if begin.batches and not begin.ended and (not has_all or self.batches == 1):
            # Lightning begins a pass, after it has lost count: the same again, or the next.
            return either
        return [begin.epoch + (begin.ended or has_all)]

    def position(self, number, length, processed):
        """Where a checkpoint stands."""
        begin, entries, epoch = self.runs[number]
        entries = entries[:length]
        if not any(kind == "batch" for kind, *_ in entries):
            return begin
        passes = _passes(entries)
        last = passes[-1]
        ended = last[-1][0] == "end"
        batch_idx = [entry for entry in last if entry[0] == "batch"][-1][1]
        return Position(epoch + len(passes) - 1, batch_idx + (ended or processed > batch_idx), ended)

    def check(self, number, journal):
        """The complaint about a run, or None."""
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        begin = Position()
        for kind, *where in entries:
            if kind == "resumed":
                begin = self.position(*where)
        passes = _passes(entries)
        self.runs[number] = begin, entries, None
        if not passes:
            return None
        batch_idx = next(entry[1] for entry in passes[0] if entry[0] == "batch")
        candidates = self.expected(begin, batch_idx)
        for first in candidates:
            if all(
                self.images[first + later, index] == image
                for later, entries_of_pass in enumerate(passes)
                for kind, *values in entries_of_pass
                if kind == "batch"
                for index, image in values[1]
            ):
                self.runs[number] = begin, entries, first
                return None
        shown = [
            sorted(
                epoch
                for epoch in range(max(epoch for epoch, _ in self.images) + 1)
                if all(
                    self.images[epoch, index] == image
                    for kind, *values in entries_of_pass
                    if kind == "batch"
                    for index, image in values[1]
                )
            )
            for entries_of_pass in passes
        ]
        return f"run {number} began at {begin}, with batch {batch_idx}: expected pass {candidates}, got {shown}"


def _passes(entries):
    """The entries of each pass that has batches."""
    passes = [[]]
    for entry in entries:
        if entry[0] == "batch":
            passes[-1].append(entry)
        elif entry[0] == "end" and passes[-1]:
            passes[-1].append(entry)
            passes.append([])
    return [entries for entries in passes if entries]


def uninterrupted_images(folder, epochs=30):
    """Digests of the images by pass and index."""
    module = Recorder()
    fit = trainer(AugMixCallback(10, seed=1), root=folder, max_epochs=epochs, limit_val_batches=0)
    fit.fit(module, datamodule=Data())
    return module.images()


def follow(setting, interruptions, images, folder, run=run):
    """Runs a chain and one more run to its end; returns the number of resumes, and the first complaint or None."""
    judge = Judge(images, setting.batches)
    ckpt_path = None
    ending = Interruption("kill", "training_step", 2 * setting.batches + 2)
    for number, interruption in enumerate([*interruptions, ending]):
        ckpt_path = run(setting, interruption, number, folder, ckpt_path)
        complaint = judge.check(number, folder / f"run-{number}.jsonl")
        if complaint:
            return number, complaint
    return number, None
