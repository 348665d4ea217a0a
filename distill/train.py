"""The loop: one linear story from a plan to a trained student, the same for every method."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timm.utils.model_ema import ModelEmaV3

from distill import checkpoint, compiling, sharding
from distill.console import Console
from distill.evaluate import Score, score, summed
from distill.loader import in_order, train_batches
from distill.losses import Address
from distill.metrics import Metrics, of_losses, of_score
from distill.mixing import mix
from distill.optim import build_optimizer, learning_rate
from distill.options import RunOptions
from distill.passed_over import list_bad
from distill.preflight import Plan
from distill.views import derived_seed, train_transform, val_transform
from students import ViT
from students.draws import image_seeds
from students.preprocess import Preprocess

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.saved.reader import SavedOutputs
    from teachers.frozen_ensemble import AnyFrozen


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite; raised on every process before the optimiser took the step."""


def train(
    plan: Plan,
    teacher: AnyFrozen | None,
    accelerator: Accelerator,
    out: Path,
    options: RunOptions,
    console: Console,
    *,
    workers: int,
    saved: SavedOutputs | None = None,
    stop_step: int | None = None,
) -> ViT:
    """Train from the newest checkpoint in `out`, or from the start, and return the student that is to be kept.

    saved: what the teacher said of the views that the plan's layout shows, in the place of the teacher itself.
    stop_step ends a rehearsal early. NonFiniteLoss if a term is not finite.
    """
    recipe, layout, optim = plan.recipe, plan.layout, plan.recipe.optim
    config, views = recipe.student, recipe.views

    # Prepare: the objective alone goes to accelerate; the teacher stays outside of it and of every checkpoint.
    if compiling.asked(options, accelerator):
        compiling.compile_blocks(plan.objective.student, compiling.take_over(accelerator))
        console.say("the student's blocks are compiled at their first step")
    if sharding.shards(accelerator):
        sharding.shard_objective(plan.objective, accelerator)
    optimizer = build_optimizer(plan.objective, optim, accelerator.device)
    objective, optimizer = accelerator.prepare(plan.objective, optimizer)
    if sharding.shards(accelerator):
        sharding.rebind(optimizer, build_optimizer(plan.objective, optim, accelerator.device))
    student = accelerator.unwrap_model(objective).student
    ema = ModelEmaV3(student, decay=optim.ema_decay, use_warmup=True) if optim.ema_decay else None
    if ema:
        accelerator.register_for_checkpointing(ema.module)
    kept = ema.module if ema else student
    assert isinstance(kept, ViT)

    # Resume: every random choice is a function of the step, so the step is all that has to be known.
    start = checkpoint.load(accelerator, out / "checkpoints")
    metrics = Metrics(out / "metrics.jsonl", start, accelerator)
    if start:
        console.say(f"resumed after step {start} of {layout.steps}")
    batches = train_batches(
        plan.train,
        train_transform(views, plan.recipe.view_size, config.in_chans, config.input_mean, config.input_std),
        layout,
        seed=recipe.seed,
        process=accelerator.process_index,
        start_step=start,
        workers=workers,
    )

    # Train.
    objective.train()
    with console.progress(layout.steps, start, layout.batch_size) as progress:
        for step in range(start, layout.steps if stop_step is None else min(stop_step, layout.steps)):
            lr = learning_rate(optim, step, steps=layout.steps, steps_per_epoch=layout.steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            draw = derived_seed(recipe.seed, step, "teacher")
            terms: list[dict[str, torch.Tensor]] = []
            means: dict[str, float] = {}
            for _ in range(layout.accumulate):
                batch = next(batches)
                images = batch.views.to(accelerator.device, non_blocking=True)
                labels = None if batch.labels is None else batch.labels.to(accelerator.device, non_blocking=True)
                if views.mixes:
                    address = {"seed": recipe.seed, "epoch": batch.epoch, "position": batch.position}
                    images, labels = mix(images, labels, views, config.known_classes(), **address)
                place = batch.position % layout.batch_size
                torch.manual_seed(
                    derived_seed(recipe.seed, step, place, "other modules")
                )  # that draw in torch's own way
                where = Address(
                    index=batch.index.to(accelerator.device, non_blocking=True),
                    start=place,
                    total=layout.batch_size,
                    seed=derived_seed(recipe.seed, step, "losses"),
                    progress=step / layout.steps,
                    draws=image_seeds(derived_seed(recipe.seed, step, "dropout"), place, len(images), images.device),
                )
                with accelerator.accumulate(objective):
                    with accelerator.autocast():
                        online = teacher(images, plan.objective.teacher_layers, draw) if teacher else None
                    target = saved(batch) if saved else online
                    losses = objective(images, target, labels, where)
                    accelerator.backward(losses["total"])
                    terms.append(losses)
                    if accelerator.sync_gradients:
                        means = finite_means(terms, accelerator, step)
                        if optim.clip_grad is not None:
                            accelerator.clip_grad_norm_(objective.parameters(), optim.clip_grad)
                    optimizer.step()
                    optimizer.zero_grad()
            if ema:
                ema.update(student, step)
            done = step + 1
            progress.advance(means, lr)
            if done % options.log_every_steps == 0 or done == layout.steps:
                metrics.write({"step": done, "epoch": done / layout.steps_per_epoch, "lr": lr, **of_losses(means)})
            if stop_step is not None:
                continue
            epoch, step_in_epoch = divmod(done, layout.steps_per_epoch)
            if done == layout.steps or (step_in_epoch == 0 and epoch % options.eval_every_epochs == 0):
                complete = sharding.whole(kept).to(accelerator.device) if sharding.shards(accelerator) else kept
                result = evaluate(plan, complete, teacher, accelerator, workers)
                metrics.write({"step": done, "epoch": epoch, **of_score(result)})
                progress.note(f"epoch {epoch} of {optim.epochs}: {console.accuracy(result)}")
                list_bad(plan, accelerator, out)
                objective.train()
            if done == layout.steps or done % options.checkpoint_every_steps == 0:
                checkpoint.save(accelerator, out / "checkpoints", done)
    return sharding.whole(kept) if sharding.shards(accelerator) else kept


def finite_means(terms: list[dict[str, torch.Tensor]], accelerator: Accelerator, step: int) -> dict[str, float]:
    """The mean of each term over accumulation steps and processes; NonFiniteLoss, on every process, if one is none."""
    names = list(terms[0])
    local = torch.stack([torch.stack([term[name].detach() for name in names]) for term in terms]).mean(0)
    means = accelerator.reduce(local, reduction="mean")
    assert isinstance(means, torch.Tensor)
    values = dict(zip(names, means.tolist(), strict=True))
    broken = [name for name, value in values.items() if not math.isfinite(value) and name != "total"]
    if broken or not math.isfinite(values["total"]):
        raise NonFiniteLoss(
            f"step {step + 1}: loss {', '.join(broken) or 'total'} is {values[(broken or ['total'])[0]]}; "
            "no optimiser step was taken. Lower the learning rate or that loss's weight, or train in bf16 or float32"
        )
    return values


def evaluate(plan: Plan, model: ViT, teacher: AnyFrozen | None, accelerator: Accelerator, workers: int) -> Score:
    """Score a student on the validation images, each counted once, whatever the number of processes.

    Where they have no labels it is compared with the teacher.
    """
    model.eval()
    config = plan.recipe.student
    preprocess = Preprocess(config.img_hw, config.input_mean, config.input_std).to(accelerator.device)

    def logits(views: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            return model(preprocess(views))

    def reference(views: torch.Tensor) -> torch.Tensor:
        assert teacher is not None
        with accelerator.autocast():
            return teacher(views).logits

    compares = teacher is not None and not plan.val_labelled
    models = {"student": logits} | ({"teacher": reference} if compares else {})
    batches = in_order(
        plan.val,
        val_transform(plan.recipe.views, plan.recipe.view_size, config.in_chans),
        batch_size=min(plan.layout.part, 256),
        workers=workers,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    return score(
        models,
        batches,
        device=accelerator.device,
        total=len(plan.val),
        reference={"student": "teacher"} if compares else None,
        reduce=summed(accelerator),
    )["student"]
