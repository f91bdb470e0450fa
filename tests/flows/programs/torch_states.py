"""Trains with `save_state`; the first attempt is killed, the second fails, the third ends."""

from __future__ import annotations

import os
import signal

from metaflow import FlowSpec, checkpoint, current, retry, step


class TorchStatesFlow(FlowSpec):
    """One training over three attempts."""

    @checkpoint(async_upload=True)
    @retry(times=3, minutes_between_retries=0)
    @step
    def start(self):
        import torch

        from ckpt_async.integrations.pytorch import load_state, restore_rng_state, rng_state, save_state

        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
        first = 0
        state = load_state(current.checkpoint)
        if state is not None:
            model.load_state_dict(state["model"])
            restore_rng_state(state["rng"])
            first = state["step"]
        print("attempt", current.retry_count, "began after step", first)
        for number in range(first + 1, 9):
            with torch.no_grad():
                for weights in model.parameters():
                    weights += model(torch.randn(4)).sum()
            state = {"model": model.state_dict(), "rng": rng_state(), "step": number}
            self.newest = save_state(current.checkpoint, state, metadata={"step": number})
            if current.retry_count == 0 and number == 3:
                # From here on it survives the process.
                self.newest.wait()
                os.kill(os.getpid(), signal.SIGKILL)
            if current.retry_count == 1 and number == 6:
                # Nobody waits for the newest state but the end of the step.
                raise RuntimeError("as asked")
        self.weights = [weights.tolist() for weights in model.parameters()]
        self.next(self.end)

    @step
    def end(self):
        import torch

        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
        for _ in range(8):
            with torch.no_grad():
                for weights in model.parameters():
                    weights += model(torch.randn(4)).sum()
        print("undisturbed", self.weights == [weights.tolist() for weights in model.parameters()])
        print("newest", self.newest["metadata"]["step"], type(self.newest).__name__)


if __name__ == "__main__":
    TorchStatesFlow()
