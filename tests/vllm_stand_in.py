"""
vLLM's place taken, since vLLM cannot be installed without CUDA; everything that TRL wrote runs.

TRL meets vLLM in three places. Only those are replaced, under the names by which TRL imported them:

- in colocate mode, `LLM` and `SamplingParams`, with the calls that `trl.generation.vllm_generation` makes on them;
- in server mode, the program behind the address: TRL's own client speaks HTTP to a real server on this computer, down
  to the JSON in which a log-probability can be NaN;
- in server mode, NCCL, which takes the weights from the trainer to the server and needs CUDA. Here a queue takes them;
  what announces, starts and ends a transfer is TRL's.

Both modes sample from an `Engine`. Its weights come from the model's folder, as vLLM's do, and then only from TRL.
"""

import json
import math
import queue
import threading
import traceback
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM
from trl.generation import vllm_client, vllm_generation


@dataclass
class SamplingParams:
    n: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    max_tokens: int
    logprobs: int

    def __post_init__(self):
        untouched = (self.top_p, self.top_k, self.min_p, self.repetition_penalty, self.logprobs)
        assert untouched == (1.0, 0, 0.0, 1.0, 0), "the stand-in knows the temperature only"


@dataclass
class Logprob:
    logprob: float
    rank: int


class Engine:
    """
    A model of its own and a generator of its own: completions truly sampled, ended by eos, log-probabilities off by
    seeded noise (as another kernel's are), some of them NaN.
    """

    noise = 0.3  # standard deviation, in nats
    unknown = 0.1  # share of NaN

    def __init__(self, path: str, seed: int = 0):
        self.model = AutoModelForCausalLM.from_pretrained(path).eval()
        self.generator = torch.Generator().manual_seed(seed)
        self.sampled_with: list[dict[str, torch.Tensor]] = []  # the weights at each call of `sample`

    def load_weights(self, weights):
        own = dict(self.model.named_parameters())
        for name, weight in weights:
            assert own[name].shape == weight.shape
            own[name].data.copy_(weight)

    @torch.no_grad()
    def sample(self, prompts: list[list[int]], params: SamplingParams) -> list[list[tuple[list[int], list[float]]]]:
        """`params.n` completions of each prompt, as tokens and their log-probabilities."""
        self.sampled_with.append({name: weight.clone() for name, weight in self.model.state_dict().items()})
        config, rows = self.model.config, [prompt for prompt in prompts for _ in range(params.n)]
        width = max(map(len, rows))
        ids = torch.tensor([[config.pad_token_id] * (width - len(row)) + row for row in rows])  # (B, P)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])  # (B, P)
        logps = []
        for _ in range(params.max_tokens):
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, -1] / params.temperature  # (B, V)
            log_pi = logits.log_softmax(-1)  # (B, V)
            token = torch.multinomial(log_pi.exp(), 1, generator=self.generator)  # (B, 1)
            logps.append(log_pi.gather(-1, token))
            ids, mask = torch.cat([ids, token], 1), torch.cat([mask, torch.ones_like(token)], 1)
        tokens, logps = ids[:, width:], torch.cat(logps, 1)  # (B, T)
        logps = logps + self.noise * torch.randn(logps.shape, generator=self.generator)
        logps[torch.rand(logps.shape, generator=self.generator) < self.unknown] = math.nan
        completions = []
        for row, values in zip(tokens.tolist(), logps.tolist(), strict=True):
            length = row.index(config.eos_token_id) + 1 if config.eos_token_id in row else len(row)
            completions.append((row[:length], values[:length]))
        return [completions[start : start + params.n] for start in range(0, len(rows), params.n)]


class LLM:
    """`vllm.LLM` as colocate mode uses it, with a log of the calls; asleep, it has neither weights nor a cache."""

    def __init__(self, model: str, seed: int, enable_sleep_mode: bool, logprobs_mode: str, **kwargs):
        assert logprobs_mode == "processed_logprobs", "the stand-in divides by the temperature first"
        self.engine = Engine(model, seed)
        self.enable_sleep_mode = enable_sleep_mode
        self.awake = {"weights", "kv_cache"}
        self.calls: list[str] = []
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=SimpleNamespace(load_weights=self._load_weights)))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=runner))

    def _load_weights(self, weights):
        assert "weights" in self.awake
        self.engine.load_weights(weights)
        if self.calls[-1:] != ["load_weights"]:  # one entry for all the tensors of a sync
            self.calls.append("load_weights")

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")

    def sleep(self, level: int):
        assert self.enable_sleep_mode and level == 2
        self.calls.append("sleep")
        self.awake.clear()
        for parameter in self.engine.model.parameters():  # level 2 discards the weights
            parameter.data.fill_(math.nan)

    def wake_up(self, tags: list[str]):
        assert self.enable_sleep_mode
        self.calls.append(f"wake_up {' '.join(tags)}")
        self.awake.update(tags)

    def generate(self, prompts: list[dict], sampling_params: SamplingParams, use_tqdm: bool):
        assert self.awake == {"weights", "kv_cache"}
        self.calls.append("generate")
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        return [
            SimpleNamespace(
                prompt_token_ids=prompt,
                outputs=[
                    SimpleNamespace(
                        token_ids=tokens,
                        logprobs=[{t: Logprob(logp, rank=1)} for t, logp in zip(tokens, logps, strict=True)],
                    )
                    for tokens, logps in completions
                ],
            )
            for prompt, completions in zip(ids, self.engine.sample(ids, sampling_params), strict=True)
        ]


class Server:
    """`vllm serve` with its development endpoints, on a free port of this machine; has a log of the weight updates."""

    def __init__(self, path: str):
        self.engine = Engine(path)
        self.calls: list[str] = []
        # The trainer's end of the weight transfer; `group` is what TRL closes at exit
        self.communicator = SimpleNamespace(tensors=queue.SimpleQueue(), group=SimpleNamespace())
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer()

            def do_POST(self):
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}"))

            def _answer(self, *payload):
                try:
                    status, text = 200, json.dumps(getattr(server, self.path.strip("/").replace("/", "_"))(*payload))
                except Exception:  # TRL's client shows the text of any status but 200
                    status, text = 400, traceback.format_exc()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

            # The query string is of no use here
            def parse_request(self):
                parsed = super().parse_request()
                self.path = self.path.split("?")[0] if parsed else ""
                return parsed

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self._http.shutdown()
        self._http.server_close()

    def health(self):
        return {}

    def v1_models(self):
        return {"data": [{"id": "policy"}]}

    def server_info(self):
        model_config = {"logprobs_mode": "processed_logprobs"}
        return {"vllm_config": {"weight_transfer_config": {"backend": "nccl"}, "model_config": model_config}}

    def get_world_size(self):
        return {"world_size": 1}

    def init_weight_transfer_engine(self, payload):
        assert payload["init_info"]["world_size"] == 2, "the trainer and one worker"
        return {}

    def start_weight_update(self, payload):
        self.calls.append("start")
        return {}

    def update_weights(self, payload):
        assert self.calls[-1] == "start"
        info = payload["update_info"]
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            weight = self.communicator.tensors.get(timeout=10)
            assert str(weight.dtype) == f"torch.{dtype}" and list(weight.shape) == shape
            self.engine.load_weights([(name, weight)])
        self.calls.append("update")
        return {}

    def finish_weight_update(self, payload):
        self.calls.append("finish")
        return {}

    def reset_prefix_cache(self, payload):
        self.calls.append("reset_prefix_cache")
        return {"success": True}

    def v1_completions(self, payload):
        assert self.calls[-1] != "start", "no generation amid a weight update"
        self.calls.append("generate")
        params = SamplingParams(**{field.name: payload[field.name] for field in fields(SamplingParams)})
        choices = []
        for prompt, completions in zip(payload["prompt"], self.engine.sample(payload["prompt"], params), strict=True):
            for tokens, logps in completions:
                names = [f"token_id:{token}" for token in tokens]
                tops = [{name: logp} for name, logp in zip(names, logps, strict=True)]
                logprobs = {"tokens": names, "token_logprobs": logps, "top_logprobs": tops}
                choices.append({"prompt_token_ids": prompt, "token_ids": tokens, "logprobs": logprobs})
        return {"choices": choices}


def install(monkeypatch):
    """Let TRL find the stand-in where it would find vLLM 0.28 or later."""
    for module in (vllm_generation, vllm_client):
        monkeypatch.setattr(module, "is_vllm_available", lambda min_version=None: True)
    monkeypatch.setattr(vllm_generation, "LLM", LLM, raising=False)
    monkeypatch.setattr(vllm_generation, "SamplingParams", SamplingParams, raising=False)
    monkeypatch.setattr(vllm_client, "_HAS_STATEFUL_TRAINER_ENGINE", True)
    monkeypatch.setattr(vllm_client, "_HAS_RESET_PREFIX_CACHE_SUCCESS", True)
    monkeypatch.setattr(vllm_client, "get_ip", lambda: "127.0.0.1", raising=False)
    # TRL's client refuses a device that NCCL cannot use
    init_communicator = vllm_client.VLLMClient.init_communicator
    monkeypatch.setattr(
        vllm_client.VLLMClient, "init_communicator", lambda self, device: init_communicator(self, device="cuda")
    )

    def broadcast(iterator, group, src, post_iter_func):
        for item in iterator:
            group.tensors.put(post_iter_func(item).clone())  # the trainer goes on to change its own

    monkeypatch.setattr(vllm_client, "packed_nccl_broadcast_producer", broadcast, raising=False)


def serve(monkeypatch, path: str) -> Server:
    """Start a server, and let the next trainer that joins a weight transfer join its."""
    server = Server(path)
    monkeypatch.setattr(vllm_client, "open_trainer_endpoint", lambda init_info: server.communicator, raising=False)
    return server
