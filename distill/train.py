"""The loop: one linear story from a plan to a trained student, the same for every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

from distill import checkpoint, compiling, disk, sharding
from distill.ahead import Ahead, streams_for
from distill.console import Console
from distill.evaluate import Score, score, summed
from distill.finite import WAY_OUT, Agreed, NonFiniteLoss, agree, gradient_norm, refusal
from distill.loader import in_order
from distill.metrics import Metrics, of_losses, of_score
from distill.optim import build_optimizer, learning_rate
from distill.options import RunOptions
from distill.passed_over import list_bad
from distill.preflight import Plan
from distill.prepared import prepared
from distill.processes import from_main
from distill.signals import Signals, stopped
from distill.views import val_transform
from students import ViT
from students.preprocess import Preprocess

if TYPE_CHECKING:
    from accelerate import Accelerator

    from distill.saved.reader import SavedOutputs
    from teachers.frozen_ensemble import AnyFrozen


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
    signals: Signals | None = None,
) -> ViT:
    """Train from the newest checkpoint in `out`, or from the start, and return the student that is to be kept.

    saved: what the teacher said of the views that the plan's layout shows, in the place of the teacher itself.
    stop_step ends a rehearsal or a replay early, and nothing is kept. signals: are heeded between two steps, with a
    checkpoint. NonFiniteLoss if a term or the gradient is not finite, Interrupted for a signal, on every process.

    The host waits for a step's losses before the optimiser takes it, for one that is not finite must not reach the
    weights. With `options.overlap` the next micro-batch, its teacher included, is queued on the device before that.
    """
    signals = signals or Signals()
    layout, optim = plan.layout, plan.recipe.optim

    # Prepare: the objective alone goes to accelerate; the teacher stays outside of it and of every checkpoint.
    objective, optimizer = _handed_over(plan, options, accelerator, console)
    student = accelerator.unwrap_model(objective).student
    ema = ModelEmaV3(student, decay=optim.ema_decay, use_warmup=True) if optim.ema_decay else None
    kept = ema.module if ema else student
    assert isinstance(kept, ViT)

    # Resume: every random choice is a function of the step, so the step is all that has to be known.
    average = ema.module if ema else None
    restored = checkpoint.load(accelerator, out / "checkpoints", average=average, before=stop_step)
    start, skipped = restored.step, restored.skipped
    metrics = Metrics(out / "metrics.jsonl", start, accelerator)
    for note in restored.notes:
        console.say(note)
    if start:
        console.say(f"resumed after step {start} of {layout.steps}")
    end = layout.steps if stop_step is None else min(stop_step, layout.steps)
    micro_batches = prepared(plan, teacher, saved, accelerator, start_step=start, workers=workers)
    streams = streams_for(teacher, accelerator.device, console.say) if options.overlap else None
    ahead = Ahead(micro_batches, (end - start) * layout.accumulate, streams)

    def due(done: int) -> bool:
        epoch, step_in_epoch = divmod(done, layout.steps_per_epoch)
        return done == layout.steps or (step_in_epoch == 0 and epoch % options.eval_every_epochs == 0)

    def measure(done: int) -> str:
        complete = sharding.whole(kept).to(accelerator.device) if sharding.shards(accelerator) else kept
        ahead.settle()  # it may ask the teacher, which may still be answering
        result = evaluate(plan, complete, teacher, accelerator, workers)
        epoch = done // layout.steps_per_epoch
        metrics.write({"step": done, "epoch": epoch, **of_score(result)})
        list_bad(plan, accelerator, out)
        objective.train()
        return f"epoch {epoch} of {optim.epochs}: {console.accuracy(result)}"

    # Train.
    objective.train()
    with signals.deferred(), console.progress(layout.steps, start, layout.batch_size) as progress:
        if start and stop_step is None and due(start) and not from_main(accelerator, lambda: metrics.scored(start)):
            progress.note(measure(start))
        for step in range(start, end):
            lr = learning_rate(optim, step, steps=layout.steps, steps_per_epoch=layout.steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            terms: list[dict[str, torch.Tensor]] = []
            agreed, broken = Agreed({}), []
            for _ in range(layout.accumulate):
                ready = ahead.take()
                torch.manual_seed(ready.seed)  # for modules that draw in torch's own way
                with accelerator.accumulate(objective):
                    with accelerator.autocast():  # which accelerate gives DDP's forward, and FSDP2's not
                        losses = objective(ready.images, ready.target, ready.labels, ready.address)
                    accelerator.backward(losses["total"])
                    terms.append(losses)
                    if options.overlap:
                        ahead.look()
                    if accelerator.sync_gradients:
                        norm = gradient_norm(list(objective.parameters()), accelerator, optim.clip_grad)
                        agreed = agree(terms, norm, signals.received, accelerator)
                        broken = agreed.broken(with_gradient=accelerator.scaler is None)
                    if broken:
                        last_one = skipped >= options.skip_nonfinite or step + 1 == stop_step
                        refuse(agreed, broken, plan, step, accelerator, out, console, skip=not last_one)
                        skipped += 1
                    if not broken or accelerator.scaler is not None:  # a loss scaler leaves such a step out by itself
                        optimizer.step()
                    optimizer.zero_grad()
            if ema and not broken:
                ema.update(student, step)
            done = step + 1
            progress.advance(agreed.means, lr)
            if done % options.log_every_steps == 0 or done == layout.steps:
                figures = {"skipped": skipped} if broken else {"lr": lr, **of_losses(agreed.means)}
                metrics.write({"step": done, "epoch": done / layout.steps_per_epoch, **figures})
            if stop_step is not None:
                continue
            if done == layout.steps or done % options.checkpoint_every_steps == 0 or agreed.signal:
                metrics.flush()
                checkpoint.save(accelerator, out / "checkpoints", done, average=average, skipped=skipped)
            if agreed.signal:
                raise stopped(agreed.signal, done, layout.steps)
            if due(done):
                progress.note(measure(done))
    return sharding.whole(kept) if sharding.shards(accelerator) else kept


def _handed_over(plan: Plan, options: RunOptions, accelerator: Accelerator, console: Console) -> tuple[Any, Any]:
    """The objective and its optimiser as accelerate makes them: compiled, divided and wrapped as the launch asks."""
    if compiling.asked(options, accelerator):
        compiling.compile_blocks(plan.objective.student, compiling.take_over(accelerator))
        console.say("the student's blocks are compiled at their first step")
    if sharding.shards(accelerator):
        sharding.shard_objective(plan.objective, accelerator)
    optimizer = build_optimizer(plan.objective, plan.recipe.optim, accelerator.device)
    objective, optimizer = accelerator.prepare(plan.objective, optimizer)
    if isinstance(objective, DistributedDataParallel):
        # Every process computes the same buffers, such as CRD's memory, so they are not sent at every step.
        objective.broadcast_buffers = False
    if sharding.shards(accelerator):
        sharding.rebind(optimizer, build_optimizer(plan.objective, plan.recipe.optim, accelerator.device))
    return objective, optimizer


def refuse(
    agreed: Agreed,
    broken: list[str],
    plan: Plan,
    step: int,
    accelerator: Accelerator,
    out: Path,
    console: Console,
    *,
    skip: bool,
) -> None:
    """Write down which views a step that is not taken saw; NonFiniteLoss, unless it is to be skipped."""
    text, address = refusal(agreed, broken, plan, step)
    file = out / f"nonfinite_{step + 1:09d}.json"
    if accelerator.is_main_process:
        disk.replace_text(file, json.dumps(address) + "\n")
    if not skip:
        raise NonFiniteLoss(f"{text} (all in {file.name}); {WAY_OUT}", step + 1)
    console.say(f"skipped {text} (all in {file.name})")


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
