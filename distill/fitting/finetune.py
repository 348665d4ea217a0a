"""`teacher fine-tune`: a fitted head first, then the whole model, with lower learning rates for earlier layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.utils.distributed import distribute_bn
from torch import Tensor, nn

from distill import checkpoint
from distill.console import Console
from distill.evaluate import summed
from distill.finite import finite_means
from distill.fitting.fit import fit_head_of
from distill.fitting.folder import Made, claim, finish, set_head
from distill.fitting.options import FineTune
from distill.fitting.task import SPLIT_SEED, Task, open_task
from distill.loader import in_order, train_batches
from distill.metrics import Metrics, of_losses
from distill.mixing import mix
from distill.optim import learning_rate
from distill.recipe import Recipe, to_json
from distill.teaching import BATCH_SIZE
from distill.views import derived_seed, order
from students.preprocess import Preprocess
from teachers import Teacher, source
from teachers.calibration import temperature_of_use
from teachers.classifier import divide

if TYPE_CHECKING:
    from accelerate import Accelerator

LOST = 0.02
"""A fine-tuned model that decides so many fewer images rightly than the head it began with is told of."""


def fine_tune(
    recipe: Recipe,
    options: FineTune,
    out: Path,
    accelerator: Accelerator,
    console: Console,
    *,
    command: str,
    workers: int,
) -> Path:
    """Fine-tune the recipe's teacher on its data, from the newest checkpoint or the start, and return its folder."""
    task = open_task(
        recipe,
        heldout=options.heldout,
        optim=options.optim,
        processes=accelerator.num_processes,
        accumulate=accelerator.gradient_accumulation_steps,
    )
    settings = _settings(task, recipe, options)
    if claim(out, settings, accelerator, again=options.resume == "never") == "finished":
        console.say(f"{out} is finished; nothing to do. See {out / 'README.md'}, or start over with --resume never")
        return out

    model, fitted_top1 = _start(
        task, recipe, accelerator, console, workers, resumed=checkpoint.latest_step(out / "checkpoints") > 0
    )
    model = _train(model, task, options, accelerator, console, out, workers)
    temperature, top1 = _calibrate(model, task, accelerator, console, workers)
    if top1 + LOST < fitted_top1:
        console.say(
            f"note: the fitted head alone decided {fitted_top1:.1%} of its held-out images rightly, the fine-tuned "
            f"model {top1:.1%}; try --batch-norm frozen, a smaller --optim.lr, more --optim.epochs, or use teacher fit"
        )
    model.cpu()
    divide(model, temperature, task.teacher.name)
    optim = options.optim
    how = (
        f"all layers fine-tuned for {optim.epochs} epochs of {task.layout.steps_per_epoch:,} steps at batch size "
        f"{optim.batch_size}: AdamW, head's learning rate {optim.lr:g}, {options.layer_decay:g} of it for each layer "
        f"below, after a head was fitted on frozen features",
    )
    finish(
        out,
        settings,
        task,
        Made(model=model, temperature=temperature, how=how),
        accelerator,
        console,
        command=command,
        workers=workers,
    )
    return out


def _start(
    task: Task, recipe: Recipe, accelerator: Accelerator, console: Console, workers: int, *, resumed: bool
) -> tuple[Any, float]:
    """The teacher with a head to begin with, its own where it has as many classes, else one that is fitted.

    And the share of held-out images that the fitted head decides rightly; 0 where none was fitted.
    """
    plan = source.plan(task.teacher)
    model: Any = source.load(plan, pretrained=True).eval()
    assert isinstance(recipe.teacher, Teacher)
    if task.shapes.num_classes == len(task.classes) and recipe.teacher.head == "own":
        return model, 0.0
    if resumed:  # the checkpoint has the head
        model.reset_classifier(len(task.classes))
        return model, 0.0
    images = task.part(held_out=False)
    chosen = order(SPLIT_SEED, 0, len(images))[: recipe.teacher.fit_images]
    subset: Any = torch.utils.data.Subset(images, chosen.tolist())  # pyright: ignore[reportArgumentType]
    held = torch.zeros(len(chosen), dtype=torch.bool)
    held[: max(len(chosen) // 10, 1)] = True  # in random order already
    head = fit_head_of(
        task, task.teacher.build(), subset, held.numpy(), accelerator, console, epochs=1, workers=workers, keep=False
    )
    set_head(model, head, plan)
    return model, head.heldout_top1


def _train(
    model: Any,
    task: Task,
    options: FineTune,
    accelerator: Accelerator,
    console: Console,
    out: Path,
    workers: int,
) -> Any:
    """The model after the last step, in eval mode, with the same statistics on every process."""
    recipe, layout, optim, views = task.recipe, task.layout, options.optim, task.recipe.views
    preprocess = _preprocess(task).to(accelerator.device)
    optimizer: Any = create_optimizer_v2(
        model,
        opt="adamw",
        lr=optim.lr,
        weight_decay=optim.weight_decay,
        layer_decay=options.layer_decay,
        betas=optim.betas,
        eps=optim.eps,
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    start = checkpoint.load(accelerator, out / "checkpoints").step
    metrics = Metrics(out / "metrics.jsonl", start, accelerator)
    if start:
        console.say(f"resumed after step {start} of {layout.steps}")
    address = {"seed": recipe.seed, "process": accelerator.process_index, "start_step": start}
    batches = train_batches(task.part(held_out=False), task.random, layout, workers=workers, **address)
    _to_training(model, options)
    with console.progress(layout.steps, start, layout.batch_size) as progress:
        for step in range(start, layout.steps):
            lr = learning_rate(optim, step, steps=layout.steps, steps_per_epoch=layout.steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            terms: list[dict[str, Tensor]] = []
            means: dict[str, float] = {}
            for micro in range(layout.accumulate):
                batch = next(batches)
                if batch.labels is None:
                    raise ValueError("some training images have no label; give each one of the classes")
                images, labels = batch.views.to(accelerator.device), batch.labels.to(accelerator.device)
                if views.mixes:
                    where = {"seed": recipe.seed, "epoch": batch.epoch, "position": batch.position}
                    images, labels = mix(images, labels, views, len(task.classes), **where)
                torch.manual_seed(derived_seed(recipe.seed, step, micro, accelerator.process_index, "dropout"))
                with accelerator.accumulate(model):
                    with accelerator.autocast():
                        logits = model(preprocess(images))
                    assert labels is not None
                    loss = F.cross_entropy(logits.float(), labels, label_smoothing=options.smoothing)
                    accelerator.backward(loss)
                    terms.append({"total": loss})
                    if accelerator.sync_gradients:
                        means = finite_means(terms, accelerator, step)
                        if optim.clip_grad is not None:
                            accelerator.clip_grad_norm_(model.parameters(), optim.clip_grad)
                    optimizer.step()
                    optimizer.zero_grad()
            done = step + 1
            progress.advance(means, lr)
            if done % options.log_every_steps == 0 or done == layout.steps:
                metrics.write({"step": done, "epoch": done / layout.steps_per_epoch, "lr": lr, **of_losses(means)})
            if done % options.checkpoint_every_steps == 0 or done == layout.steps:
                _share_statistics(model, accelerator)
                checkpoint.save(accelerator, out / "checkpoints", done)
    _share_statistics(model, accelerator)
    return accelerator.unwrap_model(model).eval()


def _to_training(model: nn.Module, options: FineTune) -> None:
    model.train()
    if options.batch_norm == "frozen":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _share_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the mean of the batch norms' running statistics, of which each saw its own part."""
    if accelerator.num_processes > 1:
        distribute_bn(model, accelerator.num_processes, reduce=True)


@torch.no_grad()
def _calibrate(model: Any, task: Task, accelerator: Accelerator, console: Console, workers: int) -> tuple[float, float]:
    """The temperature that is best for the plain views of the images that were held out, and their top-1."""
    preprocess = _preprocess(task).to(accelerator.device)
    images = task.part(held_out=True)
    parts = {"process": accelerator.process_index, "processes": accelerator.num_processes}
    logits, labels = [torch.empty(0, len(task.classes))], [torch.empty(0, dtype=torch.long)]
    with console.counting("held-out images", len(images)) as counter:
        for batch in in_order(images, task.plain, batch_size=BATCH_SIZE, workers=workers, **parts):
            assert batch.labels is not None
            with accelerator.autocast():
                logits.append(model(preprocess(batch.views.to(accelerator.device))).float().cpu())
            labels.append(batch.labels)
            counter.advance(len(batch.views) * accelerator.num_processes)
    said, known = torch.cat(logits), torch.cat(labels)
    temperature = temperature_of_use(said, known, summed(accelerator))
    correct = summed(accelerator)((said.argmax(1) == known).sum().double())
    top1 = correct.item() / len(images)
    console.say(f"held-out images: top-1 {top1:.1%}, temperature {temperature:.3f}")
    return temperature, top1


def _preprocess(task: Task) -> Preprocess:
    plan = source.plan(task.teacher)
    return Preprocess(plan.img_size, *source.statistics(plan))


def _settings(task: Task, recipe: Recipe, options: FineTune) -> Any:
    """What decides the weights, as JSON values."""
    assert recipe.teacher is not None
    return {
        "made by": "teacher fine-tune",
        "teacher": to_json(replace(recipe.teacher, runtime="auto", class_map=None)),
        "data": to_json(recipe.data),
        "views": to_json(recipe.views),
        "view_size": list(task.recipe.view_size),
        "in_chans": task.recipe.student.in_chans,
        "seed": recipe.seed,
        "optim": to_json(options.optim),
        "layer_decay": options.layer_decay,
        "smoothing": options.smoothing,
        "batch_norm": options.batch_norm,
        "heldout": options.heldout,
    }
