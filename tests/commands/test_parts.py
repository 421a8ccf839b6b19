"""Optional packages and hardware that settings ask for."""

from types import SimpleNamespace

import pytest
import torch

from opefo_trl.commands import parts


def missing(wants_cpu=True, **settings):
    training = {"report_to": "none", "use_vllm": False, "vllm_mode": "colocate", "use_liger_kernel": False}
    training |= {"deepspeed": None, "bf16": False, "fp16": False}
    model = {"load_in_8bit": False, "load_in_4bit": False, "attn_implementation": None}
    arguments = SimpleNamespace(**{**training, **model, **settings})
    return parts.missing_parts(arguments, arguments, wants_cpu)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"report_to": ["wandb"]}, "`report_to: wandb` needs the package wandb: `pip install wandb`, or set"),
        ({"report_to": "comet_ml"}, "`report_to: comet_ml` needs the package comet_ml: `pip install comet-ml`"),
        ({"report_to": ["azure_ml"]}, "`report_to: azure_ml` needs the package azureml"),
        ({"use_vllm": True, "vllm_mode": "server"}, "`use_vllm` needs the package vllm: `pip install 'trl[vllm]'`"),
        ({"use_liger_kernel": True}, "`use_liger_kernel` needs the package liger_kernel: `pip install liger-kernel`"),
        ({"load_in_4bit": True}, "`load_in_4bit` needs the package bitsandbytes: `pip install bitsandbytes`"),
        ({"load_in_8bit": True}, "`load_in_8bit` needs the package bitsandbytes"),
        (
            {"attn_implementation": "flash_attention_2"},
            "`attn_implementation: flash_attention_2` needs the package flash",
        ),
        ({"deepspeed": "ds.json"}, "`deepspeed` needs the package deepspeed"),
    ],
)
def test_a_package_that_is_not_there(monkeypatch, settings, sentence):
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    (found,) = missing(**settings)
    assert found.startswith(sentence)
    monkeypatch.setattr(parts, "find_spec", lambda name: object())
    assert missing(**settings) == []


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    (sentence,) = missing(wants_cpu=False, bf16=True)
    assert (
        "PyTorch finds no GPU on this machine: to train on the CPU, add `--use_cpu true` and switch off `bf16`"
        in sentence
    )
    assert missing(wants_cpu=True, bf16=True) == missing(wants_cpu=False) == []
    monkeypatch.setattr(parts, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (sentence,) = missing(use_vllm=True)
    assert sentence == "`vllm_mode: colocate` needs a GPU, and torch finds none here: set `use_vllm: false`."
