"""Train the demo model: `python -m lightllm.demo.train --out DIR`, on a GPU in minutes, on a CPU in hours.

Writes a checkpoint in the Hugging Face layout, training.log and, unless told otherwise, scores.json.
"""

import argparse
import copy
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from lightllm.demo.batches import Batch, load_batches
from lightllm.demo.decoder import Decoder, prediction_loss, rope_table
from lightllm.demo.layout import MARKUP_TOKENS, SIZES, SPECIAL_TOKENS, write_configs
from lightllm.demo.mixture import sample_texts
from lightllm.demo.optimizer import Muon
from lightllm.demo.tokenizer import train_tokenizer

TOKENIZER_TEXTS = 30_000
WARMUP = 0.02
CLIP_NORM = 1.0


def plain_parts(texts: Iterator[str]) -> Iterator[str]:
    """The texts between the special tokens: a tokenizer never sees more at once."""
    marks = re.compile("|".join(map(re.escape, SPECIAL_TOKENS + MARKUP_TOKENS)))
    for text in texts:
        yield from filter(None, marks.split(text))


def load_or_train_tokenizer(file: Path, *, seed: int) -> Tokenizer:
    """The tokenizer in the file; where there is none, a new one is learned and written there."""
    if not file.exists():
        train_tokenizer(plain_parts(islice(sample_texts(Random(seed)), TOKENIZER_TEXTS))).save(str(file))
    return Tokenizer.from_file(str(file))


def make_optimizers(model: Decoder, *, muon: float, adam: float) -> list[Muon | torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [parameter for parameter in model.layers.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": [model.embed_tokens.weight], "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return [Muon(matrices, lr=muon, weight_decay=0.1), torch.optim.AdamW(groups, lr=adam, betas=(0.9, 0.95))]


class Progress:
    """How much of the training is done, by steps or by the clock, whichever is further."""

    def __init__(self, *, steps: int, minutes: float):
        self.steps, self.minutes, self.start = steps, minutes, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def part(self, step: int) -> float:
        return max(step / self.steps, self.seconds() / (60 * self.minutes))


def learning_rate_factor(part: float) -> float:
    """Up over WARMUP, then straight down to zero."""
    return max(0.0, min(part / WARMUP, (1 - part) / (1 - WARMUP)))


class Trainer:
    """Keeps the weights in float32 and runs a copy of them, which on a GPU is bfloat16."""

    def __init__(self, options: argparse.Namespace, log: Callable[[str], None]):
        self.options, self.log = options, log
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        # cuDNN's attention plans anew for every shape, and here almost every batch has its own.
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.manual_seed(options.seed)
        size = SIZES[options.size]
        self.weights = Decoder(size).to(self.device)
        self.model = copy.deepcopy(self.weights).to(dtype)
        self.optimizers = make_optimizers(self.weights, muon=options.muon, adam=options.adam)
        self.base_rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.table = rope_table(size, self.device, dtype)

    def gradients(self, batches: list[Batch]) -> Tensor:
        """Add up the gradients of some batches, as if they were one; the mean loss."""
        targets = sum(len(batch[2]) for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            tokens, positions, answers = (part.to(self.device, non_blocking=True) for part in batch)
            loss = prediction_loss(self.model, self.model(tokens, self.table), positions, answers) / targets
            loss.backward()
            total += loss.detach()
        return total

    @torch.no_grad()
    def update(self, factor: float) -> None:
        """One step of the float32 weights, then the copy anew."""
        pairs = list(zip(self.weights.parameters(), self.model.parameters(), strict=True))
        for weight, running in pairs:
            assert running.grad is not None, "every weight takes part in every step"
            weight.grad, running.grad = running.grad.to(weight.dtype), None
        nn.utils.clip_grad_norm_(self.weights.parameters(), CLIP_NORM)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        for optimizer in self.optimizers:
            optimizer.step()
        for weight, running in pairs:
            running.copy_(weight)

    def train(self, batches: Iterator[Batch]) -> None:
        progress = Progress(steps=self.options.steps, minutes=self.options.minutes)
        tokens = answers = step = 0
        while (part := progress.part(step)) < 1:
            some = list(islice(batches, self.options.accumulate))
            loss = self.gradients(some)
            self.update(learning_rate_factor(part))
            tokens += sum(batch[0].numel() for batch in some)
            answers += sum(len(batch[2]) for batch in some)
            step += 1
            if step % self.options.log_every == 0 or step == 1:
                self.log(
                    f"step {step:5d}  {progress.seconds():6.1f} s  {part:4.0%}  loss {loss.item():.4f}  "
                    f"{tokens / 1e6:7.2f} M tokens, {answers / 1e6:6.2f} M of them learned"
                )

    def save(self, folder: Path) -> None:
        """The weights in bfloat16, under the names that Qwen3ForCausalLM gives them."""
        state = self.weights.state_dict()
        weights = {f"model.{name}": value.to("cpu", torch.bfloat16).contiguous() for name, value in state.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--size", choices=SIZES, default="7m", help="parameters; 7m is the bundled model's")
    parser.add_argument("--minutes", type=float, default=5.0, help="train no longer than this")
    parser.add_argument("--steps", type=int, default=1_000_000, help="train no more steps than this")
    parser.add_argument("--batch_tokens", type=int, default=24576, help="padded tokens of a batch")
    parser.add_argument("--accumulate", type=int, default=3, help="batches of a step")
    parser.add_argument("--muon", type=float, default=0.005, help="learning rate of the layers' matrices")
    parser.add_argument("--adam", type=float, default=0.003, help="learning rate of the rest")
    parser.add_argument("--workers", type=int, default=14, help="processes that make data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=100, help="held-out questions of each task; 0 to skip")
    parser.add_argument("--log_every", type=int, default=50, help="steps between two lines of the log")
    return parser.parse_args(arguments)


def train_and_save(options: argparse.Namespace, log: Callable[[str], None]) -> None:
    tokenizer = load_or_train_tokenizer(options.out / "tokenizer.json", seed=options.seed)
    size = SIZES[options.size]
    write_configs(options.out, size)
    trainer = Trainer(options, log)
    parameters = sum(parameter.numel() for parameter in trainer.weights.parameters())
    settings = " ".join(f"{name}={value}" for name, value in vars(options).items() if name != "out")
    log(f"{parameters} parameters on {trainer.device}, torch {torch.__version__}; {settings}")
    batches = load_batches(
        tokenizer,
        batch_tokens=options.batch_tokens,
        context=size.max_position_embeddings,
        seed=options.seed,
        workers=options.workers,
    )
    trainer.train(batches)
    trainer.save(options.out)
    if options.samples:
        # transformers is needed for this alone, and takes seconds to import.
        from lightllm.demo.evaluate import evaluate_checkpoint

        evaluate_checkpoint(options.out, samples=options.samples, log=log)


def main() -> None:
    options = read_options()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "training.log").open("w", buffering=1) as file:

        def log(line: str) -> None:
            print(line, flush=True)
            file.write(line + "\n")

        train_and_save(options, log)


if __name__ == "__main__":
    main()
