"""Trains starchat-nano from scratch on generated dialogues and writes its ggml q8_0 file.

    python training/nano/train.py train               # six hours on 2 cores
    python training/nano/train.py train --device cuda # on a GPU
    python training/nano/train.py export              # src/starchat/models/starchat-nano.q8_0.bin

`train` goes on where the checkpoint in its folder ends, on whatever device that was written.

Step k sees the same batch in every run: it is made from (seed, k). Needs torch, tokenizers, typer.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import distributed
from torch.func import functional_call
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from mixture import Shard, batch
from model import Config, GPTBigCode
from muon import Muon
from tokenizer import Encoder, tokenizer_of, train_tokenizer, vocabulary

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src/starchat/models/starchat-nano.q8_0.bin"
SEED = 2023
N_STEPS = 25370
LEARNING_RATE = 1.5e-3  # of AdamW
MUON_RATE = 0.012
N_WARMUP = 100
DECAY_SHARE = 0.5  # of the steps, at the end

Folder = Annotated[Path, typer.Option(help="Where the checkpoint lies.")]
FOLDER = Path("nano-training")
app = typer.Typer(add_completion=False, help=__doc__.splitlines()[0])


def rate(step: int, n_steps: int) -> float:
    """Return the share of the learning rate at a step: a rise, a plateau, a line down to zero."""
    return min(1.0, (step + 1) / N_WARMUP, (n_steps - step) / (n_steps * DECAY_SHARE))


@app.command()
def train(
    folder: Folder = FOLDER,
    n_steps: int = N_STEPS,
    n_processes: int = 0,
    device: str = "cpu",
    n_layer: int = Config.n_layer,
    draft_of: Path | None = None,
) -> None:
    """Train, or go on where the checkpoint ends.

    Processes share a batch: by default two on CPUs, one thread each, and one on a GPU. A model with
    the vocabulary of another (`draft_of`), and one layer, can be its draft model.
    """
    n_processes = n_processes or (2 if device == "cpu" else 1)
    folder.mkdir(parents=True, exist_ok=True)
    if not (path := folder / "tokenizer.json").exists():
        tokenizer = train_tokenizer(SEED) if draft_of is None else tokenizer_of(draft_of)
        tokenizer.save(str(path))
    with tempfile.TemporaryDirectory() as meeting:
        shared = (n_processes, f"file://{meeting}/meet", folder, n_steps, device, n_layer)
        spawn(_train, shared, n_processes)


def _train(
    rank: int, n_processes: int, meeting: str, folder: Path, n_steps: int, device: str, n_layer: int
) -> None:
    """Train in one process. Each takes a shard of a batch; gradients are summed."""
    torch.set_num_threads(1)  # two threads wait for each other at every operation
    torch.manual_seed(SEED)
    distributed.init_process_group("gloo", meeting, rank=rank, world_size=n_processes)
    encoder = Encoder(_tokenizer(folder))
    # Made on the CPU: the same start on every device.
    model = GPTBigCode(Config(n_layer=n_layer)).to(device)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name[0] == "h"]
    others = [p for _, p in model.named_parameters() if p.ndim < 2] + [model.wte.weight]
    places = [model.wpe.weight]  # a position is rarely seen: small steps
    muon = Muon(matrices, MUON_RATE, decay=0.1)
    adamw = torch.optim.AdamW(
        [{"params": others}, {"params": places}],
        LEARNING_RATE,
        (0.9, 0.95),
        weight_decay=0.0,
        fused=True,
    )
    optimizers = {"muon": muon, "adamw": adamw}
    first, seconds = 0, 0.0
    if (path := folder / "checkpoint.pt").exists():
        state = torch.load(path, map_location="cpu")
        model.load_state_dict(state["model"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state[name])
        first, seconds = state["step"], state["seconds"]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    began = time.monotonic() - seconds
    with Progress(*columns, TimeRemainingColumn(), disable=rank > 0) as progress:
        task = progress.add_task("training", total=n_steps, completed=first)
        for step in range(first, n_steps):
            muon.param_groups[0]["lr"] = MUON_RATE * rate(step, n_steps)
            for group, share in zip(adamw.param_groups, (1.0, 0.1), strict=True):
                group["lr"] = LEARNING_RATE * share * rate(step, n_steps)
            model.zero_grad(set_to_none=True)
            shards = batch(encoder, model.config.n_ctx, SEED, step, n_processes)
            n_learned = sum(int((shard.targets >= 0).sum()) for shard in shards)
            loss = _learn(model, shards[rank].to(device), n_learned)
            if n_processes > 1:
                _sum_gradients(model)
            torch.nn.utils.clip_grad_norm_(others, 1.0)
            muon.step()
            adamw.step()
            progress.advance(task)
            if rank > 0:
                continue
            if (step + 1) % 25 == 0:
                seconds = time.monotonic() - began
                print(f"step {step + 1} loss {loss:.4f} {seconds:.0f} s", flush=True)
            if (step + 1) % 20 == 0 or step + 1 == n_steps:
                state = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
                state |= {"model": model.state_dict()}
                state |= {"step": step + 1, "seconds": time.monotonic() - began}
                torch.save(state, partial := folder / "checkpoint.partial")
                partial.replace(path)
    distributed.destroy_process_group()


def _sum_gradients(model: GPTBigCode) -> None:
    """Add up the gradients of all processes, in one exchange."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, summed in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(summed.view_as(gradient))


def _learn(model: GPTBigCode, shard: Shard, n_learned: int) -> float:
    """Add a shard's gradients to the model's; return its part of the batch's loss.

    The loss is the mean cross entropy of the learned targets; only those go through the output.
    """
    half = {name: value.bfloat16() for name, value in model.named_parameters()}
    hidden = functional_call(model, half, (shard.ids, shard.positions, shard.lengths))
    is_learned = shard.targets >= 0
    logits = functional.linear(hidden[is_learned], half["wte.weight"]).float()
    targets = shard.targets[is_learned]
    loss = functional.cross_entropy(logits, targets, reduction="sum") / n_learned
    loss.backward()
    return loss.item()


def _load(folder: Path) -> tuple[GPTBigCode, Encoder]:
    state = torch.load(folder / "checkpoint.pt", map_location="cpu")["model"]
    n_layer = len({name.split(".")[1] for name in state if name.startswith("h.")})
    model = GPTBigCode(Config(n_layer=n_layer))
    model.load_state_dict(state)
    return model.eval(), Encoder(_tokenizer(folder))


def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@app.command()
def export(folder: Folder = FOLDER, path: Path = MODEL) -> None:
    """Write the ggml file, tiled like the original converter's."""
    from starchat.convert.ggml_writer import tile_multi_query, write_ggml

    model, _ = _load(folder)
    config = model.config
    tensors = {
        name: tile_multi_query(value, config.n_head) if "/c_attn/" in name else value
        for name, value in model.tensors().items()
    }
    tensors["model/lm_head"] = tensors["model/wte"]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ggml(
        path,
        n_ctx=config.n_ctx,
        n_embd=config.n_embd,
        n_head=config.n_head,
        n_layer=config.n_layer,
        vocab=vocabulary(_tokenizer(folder)),
        tensors=tensors,
        type="q8_0",
    )
    typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    app()
