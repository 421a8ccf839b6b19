"""Completions of prompts, drawn by vLLM where it is installed, else by transformers."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


class Sample(NamedTuple):
    """One completion; `length` in tokens, its end-of-sequence token included."""

    text: str
    length: int
    truncated: bool


class Sampling(NamedTuple):
    """How completions are drawn; `max_tokens` per completion."""

    temperature: float
    top_p: float
    max_tokens: int


def pick_backend(backend: str) -> str:
    """`backend`, or for `"auto"` vLLM if it is installed and there is a GPU, else transformers."""
    if backend != "auto":
        return backend
    return "vllm" if torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None else "transformers"


def read_adapter(model: str) -> dict[str, Any] | None:
    """
    PEFT's configuration, if `model` is the folder of a LoRA adapter.

    Raises:
        `ValueError`: if the adapter's weights are not safetensors: PEFT would unpickle them.
    """
    path = Path(model) / "adapter_config.json"
    if not path.is_file():
        return None
    if not (Path(model) / "adapter_model.safetensors").is_file():
        raise ValueError(f"Adapter {model} has no adapter_model.safetensors: save it again with `save_pretrained`.")
    return json.loads(path.read_text())


def load_tokenizer(model: str) -> Any:
    """The tokenizer saved with the model or the adapter, else the base model's."""
    adapter = read_adapter(model)
    if adapter is not None and not (Path(model) / "tokenizer_config.json").is_file():
        model = adapter["base_model_name_or_path"]
    return AutoTokenizer.from_pretrained(model, padding_side="left")


class TransformersSampler:
    """
    Draws with `generate`, batch by batch.

    Args:
        model (`str`):
            Folder or hub name of a model or a LoRA adapter.
        sampling ([`Sampling`]):
            How to draw.
        dtype (`str`):
            dtype of the weights.
        batch_size (`int`):
            Completions per batch.
    """

    def __init__(self, model: str, sampling: Sampling, dtype: str, batch_size: int):
        self.sampling, self.batch_size = sampling, batch_size
        self.tokenizer = load_tokenizer(model)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
        adapter = read_adapter(model)
        base = model if adapter is None else adapter["base_model_name_or_path"]
        loaded = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, use_safetensors=True)
        if adapter is not None:
            from peft import PeftModel

            loaded = PeftModel.from_pretrained(loaded, model).merge_and_unload()
        self.model = loaded.to(device).eval()  # type: ignore[arg-type]
        ends = self.model.generation_config.eos_token_id
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self.ends = sorted({*ends, self.tokenizer.eos_token_id})

    def draw(self, prompts: list[list[int]], num_samples: int, seed: int) -> list[list[Sample]]:
        """`num_samples` completions of each prompt, given as tokens; the same for the same arguments."""
        torch.manual_seed(seed)
        rows = [prompt for prompt in prompts for _ in range(num_samples)]
        samples = [
            sample
            for start in range(0, len(rows), self.batch_size)
            for sample in self._generate(rows[start : start + self.batch_size])
        ]
        return [samples[start : start + num_samples] for start in range(0, len(samples), num_samples)]

    def _generate(self, prompts: list[list[int]]) -> list[Sample]:
        inputs = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt")  # (B, P)
        greedy = self.sampling.temperature == 0
        config = GenerationConfig(
            max_new_tokens=self.sampling.max_tokens,
            do_sample=not greedy,
            temperature=None if greedy else self.sampling.temperature,
            top_p=None if greedy else self.sampling.top_p,
            top_k=None if greedy else 0,
            eos_token_id=self.ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.inference_mode():
            output = self.model.generate(**inputs.to(self.model.device), generation_config=config)
        completions = output[:, inputs["input_ids"].size(1) :]  # (B, T)
        samples = []
        for ids in completions.tolist():
            end = next((place for place, token in enumerate(ids) if token in self.ends), None)
            length = len(ids) if end is None else end + 1
            text = self.tokenizer.decode(ids[:length], skip_special_tokens=True)
            samples.append(Sample(text, length, end is None))
        return samples


class VLLMSampler:
    """
    Draws with vLLM, which does its own batching.

    Args:
        model (`str`):
            Folder or hub name of a model or a LoRA adapter.
        sampling ([`Sampling`]):
            How to draw.
        dtype (`str`):
            dtype of the weights.
    """

    def __init__(self, model: str, sampling: Sampling, dtype: str):
        if "LOCAL_RANK" in os.environ:
            # Each process runs its own vLLM on its own GPU
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            rank = int(os.environ["LOCAL_RANK"])
            os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[rank] if visible else str(rank)
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        self.sampling = sampling
        self.tokenizer = load_tokenizer(model)
        adapter = read_adapter(model)
        if adapter is None:
            self.lora = None
            self.llm = LLM(model=model, dtype=dtype, load_format="safetensors")
        else:
            self.lora = LoRARequest("adapter", 1, model)
            base = adapter["base_model_name_or_path"]
            self.llm = LLM(
                model=base, dtype=dtype, load_format="safetensors", enable_lora=True, max_lora_rank=adapter["r"]
            )

    def draw(self, prompts: list[list[int]], num_samples: int, seed: int) -> list[list[Sample]]:
        """`num_samples` completions of each prompt, given as tokens."""
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                n=num_samples,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                max_tokens=self.sampling.max_tokens,
                seed=seed + row,
            )
            for row in range(len(prompts))
        ]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(inputs, parameters, use_tqdm=False, lora_request=self.lora)
        return [
            [Sample(drawn.text, len(drawn.token_ids), drawn.finish_reason == "length") for drawn in output.outputs]
            for output in outputs
        ]
