"""Ctrl-C: the run ends with one line of output. With `save_on_interrupt`, it saves a checkpoint first."""

import signal
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback


EXIT_CODE = 130  # the shell's exit code of an interrupted command


class SaveOnInterrupt(TrainerCallback):
    """
    After Ctrl-C, all processes finish the current step, save a checkpoint and stop. A second Ctrl-C stops the run at
    once.

    Attributes:
        is_interrupted (`bool`):
            Whether the training stopped for this reason.
    """

    is_interrupted = False

    def on_train_begin(self, args, state, control, **kwargs):
        signal.signal(signal.SIGINT, self._note)

    def _note(self, signal_number: int, frame: Any) -> None:
        self.is_interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_end(self, args, state, control, **kwargs):
        noted = torch.tensor(float(self.is_interrupted), device=args.device)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(noted, op=distributed.ReduceOp.MAX)  # Ctrl-C may reach one process a step later
        if noted.item():
            self.is_interrupted = True
            control.should_save = control.should_training_stop = True
