"""A worker whose steps take at least STEP_S. Started in place of lightllm.processes.worker."""

import time

from lightllm.base.messages import Ready
from lightllm.compute.execution.runner import Runner
from lightllm.processes import worker
from lightllm.processes.ipc import child

STEP_S = 0.05


class SlowRunner:
    """The real one, stretched."""

    def __init__(self, runner: Runner):
        self._runner = runner

    def launch(self, plan):
        began = time.monotonic()
        launched = self._runner.launch(plan)
        time.sleep(max(0.0, began + STEP_S - time.monotonic()))
        return launched

    def use_masks(self, masks):
        self._runner.use_masks(masks)


def main(me: child.Child) -> None:
    runner = Runner(me.start.config)
    me.control.send(Ready(pool_tokens=runner.pool_tokens))
    worker.serve(me, SlowRunner(runner))


if __name__ == "__main__":
    child.run("worker", main)
