"""What the flow head records, against full logits."""

import inspect
import types

import pytest
import torch
import trl.trainer.utils
from conftest import make_model
from references import VOCAB_TILE, naive_flow
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma2Config, Gemma2ForCausalLM
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from opefo_trl.entropy_flow import entropy_sensitivity, paper_sensitivity, sampled_sensitivity
from opefo_trl.entropy_flow.head import FlowHead
from opefo_trl.entropy_flow.projection import project_flow


def batch():
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(2, 21, (3, 12), generator=generator)
    labels = input_ids.clone()
    labels[:, :4] = -100  # prompt
    labels[1, 9:] = -100  # a shorter completion
    labels[2] = -100  # nothing to score
    return input_ids, labels


def record(model, temperature=1.0, estimator="exact", rows=3, cast=False):
    add_fused_lm_head(model, temperature, cast_lm_head_to_fp32=cast, outputs=("log_probs", "entropy"))
    head = FlowHead(model, estimator)
    input_ids, labels = batch()
    with torch.no_grad(), head.record(rows) as chunks:
        outputs = model(input_ids=input_ids, labels=labels, fused_lm_head=True)
    return head, chunks, outputs


def full_logits(model, input_ids):
    with torch.no_grad():
        return model(input_ids=input_ids).logits[:, :-1].double()


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_recorded_sensitivities_equal_those_of_full_logits(temperature):
    model = make_model(initializer_range=0.5)
    _, (flow,), _ = record(model, temperature)
    input_ids, labels = batch()
    mask = labels[:, 1:] != -100
    expected = entropy_sensitivity(full_logits(model, input_ids) / temperature, input_ids[:, 1:])
    # Logits of up to 11 carry 1e-6 in float32, whose rounding differs between processors; at half of 0.6 that triples
    torch.testing.assert_close(flow.sensitivities.double(), expected * mask, rtol=0, atol=5e-6)
    assert (flow.sensitivities[~mask] == 0).all()
    assert (expected[mask].abs() > 1e-3).all(), "values large enough to tell from 0"


def test_soft_capping_is_honoured():
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=21,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.5,
        final_logit_softcapping=3.0,
    )
    model = Gemma2ForCausalLM(config)
    _, (flow,), _ = record(model)
    input_ids, labels = batch()
    logits = full_logits(model, input_ids)
    assert 2.0 < logits.abs().max() <= 3.0, "the cap must be at work"
    expected = entropy_sensitivity(logits, input_ids[:, 1:]) * (labels[:, 1:] != -100)
    torch.testing.assert_close(flow.sensitivities.double(), expected, rtol=0, atol=2e-6)


def test_head_cast_to_float32():
    model = make_model(initializer_range=0.5).to(torch.bfloat16)
    model.lm_head = model.lm_head.float()
    _, (flow,), _ = record(model, cast=True)
    input_ids, labels = batch()
    with torch.no_grad():
        hidden = model.model(input_ids).last_hidden_state[:, :-1].double()
    logits = hidden @ model.lm_head.weight.double().T
    expected = entropy_sensitivity(logits, input_ids[:, 1:]) * (labels[:, 1:] != -100)
    torch.testing.assert_close(flow.sensitivities.double(), expected, rtol=0, atol=5e-6)


def test_backbone_runs_once_and_the_pass_is_unchanged():
    model = make_model()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    input_ids, labels = batch()
    with torch.no_grad():
        plain = model(input_ids=input_ids, labels=labels, fused_lm_head=True)
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    _, _, recorded = record(model)
    assert len(calls) == 1
    assert torch.equal(plain.log_probs, recorded.log_probs)
    torch.testing.assert_close(plain.entropy, recorded.entropy, rtol=0, atol=1e-6)
    assert recorded.log_sum_sq_probs is None, "what carried the sensitivities is not TRL's"


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes, and whether one gives a number to the host."""

    numel, is_read = 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.is_read |= func is torch.ops.aten._local_scalar_dense.default
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_no_tensor_of_tokens_times_vocabulary():
    vocabulary = 100_000
    model = make_model()
    model.resize_token_embeddings(vocabulary)
    with LargestTensor() as largest:
        _, (flow,), _ = record(model)
    assert largest.numel < flow.logps.numel() * vocabulary
    with LargestTensor() as naive, torch.no_grad():
        model(input_ids=batch()[0])
    assert naive.numel > flow.logps.numel() * vocabulary, "the count must see full logits where they are made"


def test_candidates_are_not_scattered_over_the_vocabulary_nor_read_by_the_host():
    hidden, weight, tokens = torch.randn(64, 4), torch.randn(400_000, 4), torch.arange(64)
    candidates = torch.arange(50).expand(64, -1)
    with LargestTensor() as largest:
        flow = project_flow(hidden, weight, None, tokens, 1.0, VOCAB_TILE, candidates=candidates)
    # A tile; Triton's interpreter, where it runs, has its bytes
    assert 64 * VOCAB_TILE <= largest.numel < 64 * 400_000 and not largest.is_read
    with largest:
        flow.logps.sum().item()
    assert largest.is_read, "the count must see a read where there is one"


def test_only_the_asked_rows_are_recorded():
    model = make_model()
    head, _, _ = record(model)
    input_ids, labels = batch()
    with torch.no_grad(), head.record(rows=4) as chunks:
        for _ in range(3):
            model(input_ids=input_ids, labels=labels, fused_lm_head=True)
        assert [chunk.logps.size(0) for chunk in chunks] == [3, 3]
    with torch.no_grad():
        model(input_ids=input_ids, labels=labels, fused_lm_head=True)
    assert len(chunks) == 2, "nothing is recorded outside"
    assert len(model.model._forward_hooks) == 0, "no hook stays behind"


@pytest.mark.parametrize("estimator", ["exact", "sampled", "paper"])
def test_one_projection(estimator):
    """As many multiplications as TRL's own pass over the same rows."""
    model = make_model()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    input_ids, labels = batch()
    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        model(input_ids=input_ids, labels=labels, fused_lm_head=True)
    with FlopCounterMode(display=False) as recorded:
        record(model, estimator=estimator)
    assert recorded.get_total_flops() == plain.get_total_flops() > 0


def test_trls_projection_is_back_after_a_recorded_pass():
    model = make_model()
    original = trl.trainer.utils._ChunkedLogProbFunction
    head, _, _ = record(model)
    assert trl.trainer.utils._ChunkedLogProbFunction is original
    with pytest.raises(ValueError, match="input_ids"), head.record(rows=3):
        model(input_ids=None, labels=None, fused_lm_head=True)
    assert trl.trainer.utils._ChunkedLogProbFunction is original


class TruncatedProjection(torch.autograd.Function):
    """Stands for a projection of TRL that takes the candidates of a truncated sampler."""

    @staticmethod
    def forward(
        ctx,
        hidden,
        weight,
        bias,
        targets,
        temperature,
        chunk_size,
        final_logit_softcapping=None,
        logit_scale=1.0,
        outputs=("entropy",),
        sampling_mask=None,
    ):
        logps, *others = ChunkedLogProbFunction.apply(
            hidden, weight, bias, targets, temperature, chunk_size, final_logit_softcapping, logit_scale, outputs
        )
        if sampling_mask is not None:
            logps = naive_flow(hidden @ weight.t() / temperature, targets, sampling_mask).logps
        return logps, *others


class ReorderedProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, targets, sampling_mask, outputs, temperature, hidden, bias, weight, chunk_size):
        return TruncatedProjection.forward(
            ctx, hidden, weight, bias, targets, temperature, chunk_size, None, 1.0, outputs, sampling_mask
        )


class OtherProjection(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, chunk_size, outputs, sharpness=0.5, shift=None):
        return TruncatedProjection.forward(
            ctx, hidden, weight, bias, targets, temperature, chunk_size, None, 1.0, outputs
        )


def record_with(projection, monkeypatch, estimator, **given):
    """Record a pass whose fused LM head calls a projection with the arguments of its own signature."""
    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", projection)
    model = make_model(initializer_range=0.5)
    input_ids, labels = batch()

    def fused_forward(model, input_ids, labels, fused_lm_head):
        hidden, mask = model.model(input_ids).last_hidden_state[:, :-1].flatten(0, 1), labels[:, 1:] != -100
        arguments = {"hidden": hidden, "weight": model.lm_head.weight, "targets": input_ids[:, 1:].flatten()}
        arguments |= {"temperature": 0.8, "chunk_size": VOCAB_TILE, "outputs": ("entropy",), **given}
        _, *parameters = inspect.signature(projection.forward).parameters.values()
        values = [arguments.get(p.name, None if p.default is p.empty else p.default) for p in parameters]
        per_token = trl.trainer.utils._ChunkedLogProbFunction.apply(*values)
        logps, entropies, squares, *_ = (
            None if x is None else x.view(mask.shape).masked_fill(~mask, 0) for x in per_token
        )
        return FusedCausalLMOutput(log_probs=logps, entropy=entropies, log_sum_sq_probs=squares)

    model.forward = types.MethodType(fused_forward, model)
    head = FlowHead(model, estimator)
    with torch.no_grad(), head.record(rows=3) as chunks:
        model(input_ids=input_ids, labels=labels, fused_lm_head=True)
    del model.forward
    return chunks[0], full_logits(model, input_ids) / 0.8, labels[:, 1:] != -100


def draw_candidates():
    """Of each position of `batch`: the token and up to four others, of some nothing."""
    input_ids, _ = batch()
    tokens = input_ids[:, 1:].reshape(-1, 1)  # (33, 1)
    others = torch.rand(33, 21, generator=torch.Generator().manual_seed(1)).scatter(-1, tokens, -1).topk(4).indices
    others[torch.arange(4) >= torch.arange(33).unsqueeze(-1) % 5] = -1
    candidates = torch.cat([others, tokens], -1)  # (33, 5)
    candidates[::7] = -1
    return candidates


@pytest.mark.parametrize("projection", [TruncatedProjection, ReorderedProjection])
@pytest.mark.parametrize("estimator", ["exact", "sampled", "paper"])
def test_a_truncated_sampler(monkeypatch, estimator, projection):
    """TRL's ratio is made of ln p over the candidates; H, and p where it stands alone, are of the whole vocabulary."""
    candidates = draw_candidates()
    flow, logits, mask = record_with(projection, monkeypatch, estimator, sampling_mask=candidates)
    tokens = batch()[0][:, 1:].flatten()
    expected, whole = naive_flow(logits.flatten(0, 1), tokens, candidates), naive_flow(logits.flatten(0, 1), tokens)
    estimate = {"sampled": sampled_sensitivity, "paper": paper_sensitivity}.get(estimator)
    if estimate is not None:
        expected = expected._replace(sensitivities=estimate(whole.logps, whole.entropies))
    for value, true in zip(flow, expected, strict=True):
        torch.testing.assert_close(value.double(), true.view(mask.shape) * mask, rtol=0, atol=5e-6)
    assert ((expected.logps - whole.logps).view(mask.shape)[mask] > 1e-3).sum() > 5, "the sampler must be at work"


@pytest.mark.parametrize("estimator", ["sampled", "paper"])
def test_estimates_of_an_untruncated_sampler_are_made_of_trls_own_pass(monkeypatch, estimator):
    estimate = {"sampled": sampled_sensitivity, "paper": paper_sensitivity}[estimator]
    monkeypatch.delattr("opefo_trl.entropy_flow.head.project_flow")
    flow, _, mask = record_with(TruncatedProjection, monkeypatch, estimator)
    assert torch.equal(flow.sensitivities, estimate(flow.logps, flow.entropies) * mask)


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_an_argument_that_is_not_known_stops_with_a_sentence(monkeypatch, estimator):
    record_with(OtherProjection, monkeypatch, estimator)
    for given in ({"sharpness": 0.6}, {"sharpness": torch.ones(21)}, {"shift": "left"}):
        with pytest.raises(
            TypeError, match=rf"TRL {trl.__version__} passes `{[*given][0]}`, which OPEFO does not know"
        ):
            record_with(OtherProjection, monkeypatch, estimator, **given)
