"""opefo_trl/evaluation/sampling.py: what transformers and vLLM are asked, and what they answer."""

import sys
import types

import pytest
import torch
from conftest import SYMBOLS, make_model, make_tokenizer
from evaluations import make_folder, read, refuse, run
from peft import LoraConfig, get_peft_model

from opefo_trl.evaluation.sampling import Sampling, TransformersSampler


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return make_folder(tmp_path, monkeypatch)


def test_greedy_samples_are_the_likeliest_tokens(folder):
    """Prompts of uneven length in one batch, against one prompt at a time without `generate`."""
    sampler = TransformersSampler("model", Sampling(0.0, 1.0, 12), "float32", batch_size=3)
    prompts = [[2, 3, 4, 5, 6], [7], [8, 9, 2]]
    eos = SYMBOLS.index("<eos>")
    for prompt, (sample,) in zip(prompts, sampler.draw(prompts, 1, 0), strict=True):
        ids = list(prompt)
        while len(ids) - len(prompt) < 12 and ids[-1] != eos:
            with torch.no_grad():
                ids.append(int(sampler.model(torch.tensor([ids])).logits[0, -1].argmax()))
        completion = ids[len(prompt) :]
        text = sampler.tokenizer.decode(completion, skip_special_tokens=True)
        assert sample == (text, len(completion), completion[-1] != eos)


def test_adapter_equals_the_merged_model(folder):
    torch.manual_seed(0)
    model = get_peft_model(
        make_model(initializer_range=0.5),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    model.peft_config["default"].base_model_name_or_path = "model"
    model.save_pretrained("adapter")
    model.merge_and_unload().save_pretrained("merged")
    make_tokenizer().save_pretrained("merged")
    how = Sampling(1.0, 0.9, 12)
    drawn = [
        TransformersSampler(name, how, "float32", batch_size=8).draw([[2, 3], [4]], 4, seed=1)
        for name in ("adapter", "merged", "model")
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_weights_that_are_no_safetensors(folder, capsys):
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "model", "r": 4}')
    (folder / "adapter" / "adapter_model.bin").touch()
    words = ["--benchmarks", "short=short.jsonl", "--output", "out", "--model"]
    assert "Adapter adapter has no adapter_model.safetensors: save it again" in refuse(capsys, *words, "adapter")
    torch.save(make_model().state_dict(), folder / "model" / "pytorch_model.bin")
    (folder / "model" / "model.safetensors").unlink()
    assert "no file named model.safetensors found in directory model" in refuse(capsys, *words, "model")


def test_vllm(folder, monkeypatch):
    """What is asked of vLLM, and what becomes of its answer; vLLM itself needs CUDA."""
    calls = []

    class LLM:
        def __init__(self, **settings):
            calls.append(settings)

        def generate(self, prompts, parameters, use_tqdm, lora_request):
            calls.append([len(prompt["prompt_token_ids"]) for prompt in prompts])
            calls.append([vars(parameter) for parameter in parameters])
            drawn = types.SimpleNamespace(text=r"\boxed{1}", token_ids=[1, 2, 3], finish_reason="stop")
            return [types.SimpleNamespace(outputs=[drawn] * parameters[0].n) for _ in prompts]

    vllm = types.ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = LLM, lambda **settings: types.SimpleNamespace(**settings)
    lora = types.ModuleType("vllm.lora.request")
    lora.LoRARequest = lambda *args: args
    for name, module in {"vllm": vllm, "vllm.lora": types.ModuleType("vllm.lora"), "vllm.lora.request": lora}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert run("out", "--backend", "vllm") == 0
    assert calls[0] == {"model": "model", "dtype": "auto", "load_format": "safetensors"}
    assert calls[1] == [2, 3] and [parameter["n"] for parameter in calls[2]] == [4, 4]
    seeds = [parameter["seed"] for parameters in calls[2::2] for parameter in parameters]
    assert len(set(seeds)) == 10 and calls[2][0]["top_p"] == 0.7 and calls[2][0]["max_tokens"] == 12
    assert read("out")["benchmarks"]["mine"]["problems"][0]["correct"] == [True] * 4
    assert read("out")["benchmarks"]["mine"]["scores"]["mean_length"] == 3
