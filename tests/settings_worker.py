"""Run by `test_settings.py` in two processes: one step of each of the drawn settings, and its gradient's error."""

import json
import os
import sys
from pathlib import Path

import torch
from conftest import SETTINGS, KeepGradient, letter_reward, make_dataset, make_tokenizer
from independent import ONE_STEP, gradient_error
from transformers import AutoModelForCausalLM

from opefo_trl import OPEFOConfig, OPEFOTrainer


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    errors = []
    for settings in json.loads((folder / "settings.json").read_text()):
        keep = KeepGradient()
        trainer = OPEFOTrainer(
            AutoModelForCausalLM.from_pretrained(folder / "model"),
            letter_reward,
            OPEFOConfig(output_dir=str(folder / "run"), seed=7, **{**SETTINGS, **ONE_STEP, **settings}),
            train_dataset=make_dataset(),
            processing_class=make_tokenizer(),
            callbacks=[keep],
        )
        errors.append(gradient_error(trainer, keep))
    if os.environ["RANK"] == "0":
        (folder / "errors.json").write_text(json.dumps(errors))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
