"""One tool in a process of its own: single-student distillation in the loop that its own users write.

`peers.py` starts this file once for each tool and tells it on stdin, a line at a time, what to do; it answers with a
line of JSON. All tools get the same images, networks, weights, optimizer, losses, batch size and one thread. None but
ours is changed to be faster or slower; what had to be changed to run at all is said beside it.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from work import BATCH, EPOCHS, HARD, SGD, TEMPERATURE, Numbered, Work, hand_loss, make_work

from tutelage.engine.autotune import begin, choose
from tutelage.engine.loop import mean_losses, steps_of
from tutelage.engine.monitor import Means
from tutelage.engine.settings import Settings
from tutelage.engine.teacher_cache import use
from tutelage.graph.schedules import constant
from tutelage.methods.distill import distill
from tutelage.system.distributed import World
from tutelage.system.machine import keep_memory

Turn = Callable[[], float]
"""Take as many steps as the images have batches; the mean loss."""


def ours(work: Work, *, cached: bool, fp32: bool) -> Turn:
    keep_memory()
    settings = Settings(EPOCHS, SGD, rate=constant, batch_size=BATCH, limit_draws=1 if cached else None, cache=cached)
    graph, world = distill("teacher", "student", temperature=TEMPERATURE, hard=HARD, soft=1 - HARD), World(
        torch.device("cpu"))
    began = time.process_time()
    tuned = choose(graph, work.models, work.data, settings, world)
    work.facts["tuning_cpu_seconds"] = time.process_time() - began
    if fp32:
        tuned.choices = {node: replace(choice, bf16=False) for node, choice in tuned.choices.items()}
    run = begin(graph, work.models, work.data, settings, world, tuned)
    began = time.process_time()
    if cached:
        draws = list(use.fill_cache(run, 1))
        run.step = 0
        work.facts["cache"] = {"draws": len(draws), "epochs": EPOCHS, "build_cpu_seconds": time.process_time() - began}
    work.facts["choices"] = {node: str(choice) for node, choice in run.choices.items()}
    work.facts["notes"] = tuned.notes
    steps = steps_of(run)

    def turn() -> float:
        losses = []
        work.photos.tick()
        for _ in range(work.photos.steps):
            run.means = Means()
            epoch = next(steps)
            losses.append(sum((epoch.losses if epoch else mean_losses(run)).values()))
            if epoch:  # it was evaluated, as no peer does here: this step is not counted
                work.photos.last = None
            work.photos.tick()
        return fmean(losses)
    return turn


def plain(work: Work) -> Turn:
    teacher, student = work.networks
    optimizer, loader = SGD(student.parameters()), DataLoader(work.photos, BATCH, shuffle=True)

    def turn() -> float:
        losses = []
        for images, labels in loader:
            with torch.no_grad():
                target = teacher(images)
            loss = hand_loss(student(images), target, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return fmean(losses)
    return turn


def torchdistill(work: Work) -> Turn:
    from torch.utils.data import RandomSampler
    from torchdistill.core.distillation import DistillationBox

    teacher, student = work.networks
    loss = {"key": "KDLoss", "kwargs": {"student_module_path": ".", "student_module_io": "output",
                                        "teacher_module_path": ".", "teacher_module_io": "output",
                                        "temperature": TEMPERATURE, "alpha": HARD, "reduction": "batchmean"}}
    box = DistillationBox(teacher, student, {"train": work.photos}, {
        "num_epochs": 1,
        "train_data_loader": {"dataset_id": "train", "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
                              "kwargs": {"batch_size": BATCH}},
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": dict(SGD.keywords)},
        "criterion": {"key": "WeightedSumLoss",
                      "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}}},
    }, torch.device("cpu"), None, False, 1)

    def turn() -> float:
        losses = []
        box.pre_epoch_process(epoch=0)
        for images, labels, extra in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(images, labels, extra)
            box.post_forward_process(loss=loss)
            losses.append(loss.item())
        return fmean(losses)
    return turn


def timm(work: Work) -> Turn:
    from timm.task import LogitDistillationTask

    teacher, student = work.networks
    like = {"mean": tuple(work.models["teacher"].mean.flatten().tolist()),
            "std": tuple(work.models["teacher"].std.flatten().tolist())}
    for network in (teacher, student):  # what timm's own networks carry
        network.pretrained_cfg, network.num_classes, network.in_chans = like, len(work.data.classes), 3
    task = LogitDistillationTask(student, teacher, nn.CrossEntropyLoss(), task_loss_weight=HARD,
                                 temperature=TEMPERATURE, device=torch.device("cpu"), verbose=False)
    optimizer, loader = SGD(student.parameters()), DataLoader(work.photos, BATCH, shuffle=True)
    task.train()

    def turn() -> float:
        losses = []
        for images, labels in loader:
            loss = task(images, labels)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return fmean(losses)
    return turn


def lightning(work: Work) -> Turn:
    import lightning as pl

    class Distillation(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.student = work.networks
            self.teacher.requires_grad_(False)
            self.optimizer, self.losses = SGD(self.student.parameters()), []

        def training_step(self, batch: tuple[Tensor, Tensor], _number: int) -> Tensor:
            images, labels = batch
            with torch.no_grad():
                target = self.teacher(images)
            loss = hand_loss(self.student(images), target, labels)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.optimizer

    module, loader = Distillation(), DataLoader(work.photos, BATCH, shuffle=True)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=0, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)

    def turn() -> float:
        module.losses.clear()
        assert trainer.fit_loop.max_epochs is not None
        trainer.fit_loop.max_epochs += 1
        trainer.fit(module, loader)
        return fmean(module.losses)
    return turn


def transformers(work: Work) -> Turn:
    import transformers as hf

    teacher, student = work.networks
    teacher.requires_grad_(False)

    class Distillation(hf.Trainer):
        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: object, **__: object) -> Tensor:
            with torch.no_grad():
                target = teacher(inputs["images"])
            return hand_loss(model(inputs["images"]), target, inputs["labels"])

    def collate(rows: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        return {"images": torch.stack([image for image, _ in rows]), "labels": torch.tensor([x for _, x in rows])}

    arguments = hf.TrainingArguments(tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_grad_norm=0.0,
                                     save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
                                     use_cpu=True, remove_unused_columns=False)
    optimizer = SGD(student.parameters())
    trainer = Distillation(student, arguments, collate, work.photos, optimizers=(
        optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)))

    def turn() -> float:
        arguments.max_steps = work.photos.steps
        return trainer.train().training_loss
    return turn


def repdistiller(work: Work) -> Turn:
    sys.path.insert(0, os.environ["REPDISTILLER"])
    from distiller_zoo import DistillKL
    from helper.loops import train_distill

    work.facts["changed"] = "torchvision's networks return no features; \"kd\" reads none"
    teacher, student = (_Featured(network, lambda logits: ([], logits)) for network in work.networks)
    modules, criteria = [student, teacher], [nn.CrossEntropyLoss(), DistillKL(TEMPERATURE), DistillKL(TEMPERATURE)]
    optimizer, loader = SGD(student.parameters()), DataLoader(Numbered(work.photos), BATCH, shuffle=True)
    options = SimpleNamespace(distill="kd", gamma=HARD, alpha=1 - HARD, beta=0.0, print_freq=100)
    return lambda: float(train_distill(1, loader, modules, criteria, optimizer, options)[1])


def mdistiller(work: Work) -> Turn:
    sys.path.insert(0, os.environ["MDISTILLER"])
    from mdistiller.distillers import KD
    from mdistiller.engine import BaseTrainer
    from mdistiller.engine.cfg import CFG
    from mdistiller.engine.utils import AverageMeter

    work.facts["changed"] = "Tensor.cuda does nothing, since it is called everywhere"
    Tensor.cuda = lambda self, *_, **__: self
    teacher, student = (_Featured(network, lambda logits: (logits, {})) for network in work.networks)
    CFG.merge_from_list(["SOLVER.LR", SGD.keywords["lr"], "SOLVER.WEIGHT_DECAY", SGD.keywords["weight_decay"],
                         "KD.LOSS.CE_WEIGHT", HARD, "KD.LOSS.KD_WEIGHT", 1 - HARD, "LOG.WANDB", False,
                         "LOG.PREFIX", tempfile.mkdtemp()])
    loader = DataLoader(Numbered(work.photos), BATCH, shuffle=True)
    trainer = BaseTrainer("kd", nn.DataParallel(KD(student, teacher, CFG)).train(), loader, None, CFG)

    def turn() -> float:
        meters = {name: AverageMeter() for name in ("training_time", "data_time", "losses", "top1", "top5")}
        for batch in loader:
            trainer.train_iter(batch, 1, meters)
        return float(meters["losses"].avg)
    return turn


class _Featured(nn.Module):
    """A network that returns its logits together with features, of which there are none."""

    def __init__(self, network: nn.Module, pack: Callable[[Tensor], tuple]) -> None:
        super().__init__()
        self.network, self.pack = network, pack

    def forward(self, images: Tensor, **_: object) -> tuple:
        return self.pack(self.network(images))


TOOLS: dict[str, Callable[[Work], Turn]] = {
    "ours online": partial(ours, cached=False, fp32=False), "ours cached": partial(ours, cached=True, fp32=False),
    "ours online fp32": partial(ours, cached=False, fp32=True),
    "ours cached fp32": partial(ours, cached=True, fp32=True),
    "plain loop": plain, "torchdistill": torchdistill, "timm": timm, "Lightning": lightning,
    "Transformers": transformers, "mdistiller": mdistiller, "RepDistiller": repdistiller}


def answer(work: Work, turn: Turn, command: str, steps: int) -> object:
    """What one line from `peers.py` asks: losses on the common views, CPU seconds of steps, our allocator setting."""
    if command == "keep":
        return keep_memory()
    if command == "check":
        work.photos.checking, work.photos.place = True, 0
        losses = []
        for _ in range(steps):
            work.photos.begin(1)
            losses.append(turn())
        work.photos.checking = False
        return losses
    work.photos.begin(steps + 2)
    turn()
    return work.photos.seconds[1 : steps + 1]  # the first has no whole step of a tool that fetches one batch ahead


def main(name: str, weights: Path) -> None:
    """Make the tool ready, say so, then answer line by line."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # tools print
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    work = make_work(weights)
    turn = TOOLS[name](work)
    print(json.dumps(work.facts), file=told, flush=True)
    for line in sys.stdin:
        command, steps = line.split()
        print(json.dumps(answer(work, turn, command, int(steps))), file=told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
