"""Trains a small PyTorch model on synthetic data, once waiting for each save and once not, and prints how long it was held up.

    pip install 'ckpt-async[torch]'
    python flow.py run                          # CPU, or the GPU where there is one
    python flow.py run --steps 400 --width 2048 --fail-at 120

The model has about 13 million parameters at the default width; with the optimizer's state a checkpoint has about 150 MB.
"""

from __future__ import annotations

import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, checkpoint, current, retry, step


class TorchTrainingFlow(FlowSpec):
    """Two trainings side by side that differ in one word: `async_upload`."""

    steps = Parameter("steps", type=int, default=200, help="Training steps of each branch.")
    every = Parameter("every", type=int, default=25, help="Save after so many steps.")
    width = Parameter("width", type=int, default=1400, help="Width of the layers; memory grows with its square.")
    layers = Parameter("layers", type=int, default=6, help="Hidden layers.")
    batch = Parameter("batch", type=int, default=32, help="Samples of a step.")
    fail_at = Parameter("fail-at", type=int, default=0, help="In the first attempt, fail after this step; 0: never.")
    seed = Parameter("seed", type=int, default=7, help="Of the weights and the data.")

    @step
    def start(self):
        # One after the other, not as branches: two trainings at once would hold each other up.
        self.next(self.train_waiting)

    @checkpoint
    @retry(times=2, minutes_between_retries=0)
    @step
    def train_waiting(self):
        self.waiting = self.train()
        self.next(self.train_async)

    @checkpoint(async_upload=True)
    @retry(times=2, minutes_between_retries=0)
    @step
    def train_async(self):
        self.async_upload = self.train()
        self.next(self.end)

    def train(self) -> dict:
        """Train, saving now and then, from the last checkpoint where there is one; returns what was measured."""
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.seed)
        blocks: list[torch.nn.Module] = [torch.nn.Linear(64, self.width)]
        for _ in range(self.layers):
            blocks += [torch.nn.GELU(), torch.nn.Linear(self.width, self.width)]
        model = torch.nn.Sequential(*blocks, torch.nn.Linear(self.width, 1)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        truth = torch.randn(64, 1, generator=torch.Generator().manual_seed(self.seed)).to(device)

        file = Path(current.checkpoint.directory) / "training.pt"
        first = 0
        if current.checkpoint.is_loaded:
            # weights_only: a checkpoint is data, nothing in it is executed.
            state = torch.load(file, map_location=device, weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first = state["step"]
            print(f"Attempt {current.retry_count}: resumed after step {first}")
        print(f"Training on {device}, {sum(weights.numel() for weights in model.parameters()) / 1e6:.1f} million parameters")

        held_up_s: list[float] = []
        loss = torch.zeros(())
        begun = time.perf_counter()
        for number in range(first + 1, self.steps + 1):
            # The data of a step depend on its number alone, so a resumed training sees what an undisturbed one would.
            samples = torch.randn(self.batch, 64, generator=torch.Generator().manual_seed(self.seed + number)).to(device)
            loss = torch.nn.functional.mse_loss(model(samples), torch.tanh(samples @ truth))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

            if number % self.every == 0 or number == self.steps:
                # Overwriting the same file is fine: what is stored are the bytes at the call of save().
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": number}, file)
                called = time.perf_counter()
                self.latest_checkpoint = current.checkpoint.save(metadata={"step": number, "loss": loss.item()})
                held_up_s.append(time.perf_counter() - called)
                print(f"Step {number}: loss {loss.item():.4f}, save() held the training up for {held_up_s[-1]:.3f} s")
            if number == self.fail_at and current.retry_count == 0:
                raise RuntimeError(f"failing after step {number}, as asked")

        loop_s = time.perf_counter() - begun
        called = time.perf_counter()
        current.checkpoint.flush()
        return {
            "steps": self.steps - first,
            "loss": loss.item(),
            "loop_s": loop_s,
            "saves": len(held_up_s),
            "held_up_s": sum(held_up_s),
            "longest_s": max(held_up_s, default=0.0),
            "flush_s": time.perf_counter() - called,
            "size_bytes": file.stat().st_size,
        }

    @step
    def end(self):
        print(f"A checkpoint has {self.async_upload['size_bytes'] / 1e6:.0f} MB.")
        print(f"{'':16}{'saves':>6}{'held up':>11}{'longest':>11}{'loop':>11}{'flush':>11}{'loss':>10}")
        for name, run in (("waiting", self.waiting), ("async_upload", self.async_upload)):
            print(
                f"{name:16}{run['saves']:6}{run['held_up_s']:9.3f} s{run['longest_s']:9.3f} s"
                f"{run['loop_s']:9.2f} s{run['flush_s']:9.2f} s{run['loss']:10.4f}"
            )


if __name__ == "__main__":
    TorchTrainingFlow()
