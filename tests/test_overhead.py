"""What OPEFO adds to an optimizer step of GRPO, counted: passes, products, reads by the host, reductions, bytes."""

from collections import Counter
from unittest import mock

import pytest
import torch
from references import VOCAB_TILE, trl_projection
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from trl import GRPOConfig, GRPOTrainer

from benchmarks.cost.measure import peak_memory
from opefo_trl.entropy_flow.projection import project_flow


GRPO = {"trainer_class": GRPOTrainer, "config_class": GRPOConfig}
STEPS = 3
# Calls that make the host wait for a GPU: they read a value, or need one to know the size of their result
READS = {
    getattr(torch.Tensor, name)
    for name in "item tolist cpu numpy __bool__ __int__ __float__ __index__ nonzero masked_select unique".split()
} | {torch.nonzero, torch.masked_select, torch.unique, torch.equal, torch.Tensor.equal, torch.isin}


class HostSynchronizations(TorchFunctionMode):
    """Counts what would synchronize on a GPU, but for what the backbone reads of its own attention mask."""

    def __init__(self, backbone):
        super().__init__()
        self.count = 0
        self.in_backbone = False
        backbone.register_forward_pre_hook(lambda *_: setattr(self, "in_backbone", True))
        backbone.register_forward_hook(lambda *_: setattr(self, "in_backbone", False))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        indexing = func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
        index = args[1] if indexing and isinstance(args[1], tuple) else args[1:2]
        by_mask = indexing and any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in index)
        self.count += not self.in_backbone and (func in READS or by_mask)
        return func(*args, **(kwargs or {}))


def count(trainer) -> Counter:
    """Per optimizer step, after the first: what comes once in a training would not divide."""
    counts: Counter = Counter()
    accelerator = trainer.accelerator

    def watch(owner, name):
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        return mock.patch.object(owner, name, watched)

    trainer.model.model.register_forward_hook(lambda *_: counts.update(passes=1))
    synchronizations = HostSynchronizations(trainer.model.model)
    with (
        watch(accelerator, "reduce"),
        watch(accelerator, "gather"),
        watch(accelerator, "gather_for_metrics"),
        watch(torch.distributed, "all_reduce"),
        FlopCounterMode(display=False) as flops,
        synchronizations,
    ):
        trainer.train()
    counts["synchronizations"] = synchronizations.count
    counts["flops"] = flops.get_total_flops()
    return counts


def added(make_trainer, **settings) -> Counter:
    """OPEFO's counts less those of GRPO on the same rollouts: at strength 0 the two are the same training."""
    settings = {"gradient_accumulation_steps": 2, "max_steps": STEPS, **settings}
    grpo_settings = {name: value for name, value in settings.items() if not name.startswith(("flow_", "strict_"))}
    grpo = count(make_trainer(**GRPO, **grpo_settings))
    opefo = count(make_trainer(**{"flow_strength": 0.0, **settings}))
    assert grpo["passes"] > 0 and grpo["synchronizations"] > 0 and grpo["flops"] > 0
    opefo.subtract(grpo)
    return Counter({name: number for name, number in opefo.items() if number})


def test_what_is_added_where_trl_runs_no_pass(make_trainer):
    """Two chunks of one pass, one read of the metrics, one reduction; no gather."""
    counts = added(make_trainer)
    del counts["flops"]  # those of the pass
    assert counts == {"passes": 2 * STEPS, "synchronizations": STEPS, "reduce": STEPS}


@pytest.mark.filterwarnings("ignore:OPEFO takes one optimizer step")
def test_what_is_added_where_trl_runs_a_pass(make_trainer):
    """No pass, no multiplication of matrices."""
    off_policy = {
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 2,
        "strict_on_policy": False,
        "max_steps": 4,
    }
    assert added(make_trainer, **off_policy) == {"synchronizations": 2, "reduce": 2}


def test_a_target_is_not_read_back(make_trainer):
    assert added(make_trainer, flow_entropy_target=1.0, flow_entropy_gain=0.0)["synchronizations"] == STEPS
    # the ratio's target is read once, of the first batch: is there one, and what is it
    assert added(make_trainer, flow_entropy_target_ratio=0.5, flow_entropy_gain=0.0)["synchronizations"] == STEPS + 2


def test_bytes_kept_per_token(make_trainer):
    """Beside what GRPO buffers: ln p, H and s per completion token, and λ."""
    buffered = {}
    for name, classes in {"grpo": GRPO, "opefo": {}}.items():
        trainer = make_trainer(max_steps=1, **classes)
        trainer.train()
        (batch,) = trainer._buffered_inputs
        buffered[name] = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
    extra = {key: buffered["opefo"][key] for key in buffered["opefo"].keys() - buffered["grpo"].keys()}
    tokens = buffered["grpo"]["completion_mask"].numel()
    assert sum(tensor.nbytes for tensor in extra.values()) == 3 * 4 * tokens + 4
    assert buffered["grpo"].keys() <= buffered["opefo"].keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_the_projection(dtype):
    """One tile and little else, where TRL's pass holds several of its size."""
    vocab, tokens = 2 * VOCAB_TILE + 11, 256
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 8, generator=generator).to(dtype)
    weight = torch.randn(vocab, 8, generator=generator).to(dtype)
    labels = torch.randint(vocab, (tokens,), generator=generator)
    with peak_memory(torch.device("cpu")) as ours:
        project_flow(hidden, weight, None, labels, 1.0, VOCAB_TILE)
    with peak_memory(torch.device("cpu")) as theirs:
        trl_projection(hidden, weight, labels)
    with peak_memory(torch.device("cpu")) as tile:  # a CPU without bfloat16 needs more than the result's size
        torch.nn.functional.linear(hidden, weight[:VOCAB_TILE])
    assert tile.bytes >= tokens * VOCAB_TILE * hidden.element_size()
    assert tile.bytes <= ours.bytes < 1.3 * tile.bytes
    assert ours.bytes < 0.5 * theirs.bytes
