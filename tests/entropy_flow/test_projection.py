"""ln p, H and sensitivity of the projection: against float64, a naive version of the same dtype, another identity."""

import math

import pytest
import torch
import trl.kernels.chunked_logprob as trl_kernels
from references import VOCAB_TILE, naive_flow, trl_projection, two_projections

from opefo_trl.entropy_flow import kernel, projection
from opefo_trl.entropy_flow.projection import project_flow


# The kernel runs on CUDA where there is one, else in Triton's interpreter, on tensors of the CPU
KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("logps", "entropies", "sensitivities")


@pytest.fixture(params=["torch", "triton"])
def fold(request, monkeypatch):
    """The fold in torch on the CPU, and the Triton kernel; gives the device to put tensors on."""
    if request.param == "torch":
        return "cpu"
    monkeypatch.setattr(projection, "_fold_on", lambda device: kernel.fold_tile)
    return KERNEL_DEVICE


def as_projection(logits):
    """Hidden states and a weight whose product is exactly these logits: 1 · z and zeros."""
    return torch.eye(logits.size(0), dtype=logits.dtype), logits.t().contiguous()


def draw_tokens(logits, seed=0):
    """Half of the tokens drawn from the policy, half uniform."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(logits.double().softmax(-1), 1, generator=generator).squeeze(-1)
    uniform = torch.randint(logits.size(1), (logits.size(0),), generator=generator)
    return torch.where(torch.arange(logits.size(0)) % 2 == 0, drawn, uniform)


def draw_candidates(logits, tokens, sampler):
    """Candidates of a truncated sampler, the token among them, from row to row 1 to 40; of the last row none."""
    rows, vocab = logits.shape
    scores = (
        logits.float() if sampler == "top-k" else torch.rand(rows, vocab, generator=torch.Generator().manual_seed(1))
    )
    scores = scores.scatter(-1, tokens.unsqueeze(-1), math.inf)
    candidates = scores.topk(min(40, vocab), dim=-1).indices  # (N, K)
    kept = torch.linspace(1, candidates.size(1), rows).long().unsqueeze(-1)
    candidates = torch.where(torch.arange(candidates.size(1)) < kept, candidates, -1).flip(-1)
    candidates[-1] = -1
    return candidates


def check(logits, tokens, device, bias=None, tolerance=2e-7, candidates=None):
    """No value is further from float64's than the naive version of the same dtype, but for a tolerance."""
    hidden, weight = as_projection(logits)
    moved = [None if x is None else x.to(device) for x in (hidden, weight, bias, tokens, candidates)]
    flow = project_flow(*moved[:4], temperature=1.0, vocab_tile=VOCAB_TILE, candidates=moved[4])
    full = logits if bias is None else logits + bias
    truth, naive = naive_flow(full.double(), tokens, candidates), naive_flow(full, tokens, candidates)
    # ln p is rounded as TRL rounds it, in units of the largest logit
    slack = {"logps": full[full.isfinite()].abs().max().item() * 2**-22}
    for name, value, true, plain in zip(NAMES, flow, truth, naive, strict=True):
        value = value.cpu().double()
        assert value.isfinite().all(), name
        error, naive_error = (value - true).abs().max(), (plain.double() - true).abs().max()
        bound = naive_error + tolerance * (1 + true.abs().max()) + slack.get(name, 0.0)
        assert error <= bound, f"{name}: {error:.1e} off, the naive version {naive_error:.1e}"
    return flow


def draw_logits(kind, vocab, rows=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(vocab)
    noise = torch.randn(rows, vocab, generator=generator)
    if kind == "random":
        logits = 3 * noise
    elif kind == "peaked":
        logits = noise.clone()
        # p from 0.9 on up to where its distance from 1 is lost in float32
        winner = torch.randint(vocab, (rows, 1), generator=generator)
        logits.scatter_(-1, winner, math.log(vocab) + torch.linspace(3, 30, rows).unsqueeze(-1))
    elif kind == "flat":
        logits = torch.full((rows, vocab), 1.5)
    elif kind == "tied":
        logits = noise.sign() * 2
    elif kind == "large":
        logits = 1e4 * noise.sign() + noise
    return logits.to(dtype)


@pytest.mark.parametrize("vocab", [2, 3, 1000, 1025, VOCAB_TILE + 1, 200_000])
@pytest.mark.parametrize("kind", ["random", "peaked", "flat", "tied", "large"])
def test_against_float64_and_a_naive_version(fold, kind, vocab):
    logits = draw_logits(kind, vocab)
    check(logits, draw_tokens(logits), fold)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["random", "peaked", "large"])
def test_half_precision(fold, kind, dtype):
    logits = draw_logits(kind, 1500, dtype=dtype)
    check(logits, draw_tokens(logits), fold)


def test_flat_logits_have_no_flow(fold):
    """By hand: H = ln V, and each token's p (ln p + H) and π_j (ln π_j + H) are 0."""
    flow = check(draw_logits("flat", 40_000), torch.arange(6), fold)
    torch.testing.assert_close(flow.entropies.cpu(), torch.full((6,), math.log(40_000)), rtol=1e-6, atol=0)
    assert flow.sensitivities.abs().max() < 1e-9


@pytest.mark.parametrize("masked", ["some", "whole first tile", "all but one"])
def test_masked_vocabulary_entries(fold, masked):
    """A bias of −inf takes entries out: no NaN, and the same values as without these entries."""
    vocab = VOCAB_TILE + 100
    logits = draw_logits("random", vocab)
    kept = torch.ones(vocab, dtype=torch.bool)
    if masked == "some":
        kept[::3] = False
    elif masked == "whole first tile":
        kept[:VOCAB_TILE] = False
    else:
        kept[:] = False
        kept[VOCAB_TILE + 7] = True
    bias = torch.where(kept, 0.0, -math.inf)
    tokens = kept.nonzero().flatten()[torch.arange(6) % kept.sum()]
    flow = check(logits, tokens, fold, bias=bias)
    short = naive_flow(logits[:, kept].double(), kept.cumsum(0)[tokens] - 1)
    torch.testing.assert_close(flow.sensitivities.cpu().double(), short.sensitivities, rtol=1e-6, atol=2e-7)
    torch.testing.assert_close(flow.entropies.cpu().double(), short.entropies, rtol=1e-6, atol=2e-7)


def test_an_impossible_token(fold):
    """ln p is −inf, H and the sensitivity are those of the rest: s = Σ π² (ln π + H)."""
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    bias = torch.tensor([0.0, 0.0, -math.inf])
    hidden, weight = (x.to(fold) for x in as_projection(logits))
    flow = project_flow(hidden, weight, bias.to(fold), torch.tensor([2], device=fold), 1.0, VOCAB_TILE)
    pi = torch.tensor([1.0, 2.0]).softmax(-1)
    entropy = -(pi * pi.log()).sum()
    assert flow.logps.item() == -math.inf
    assert flow.entropies.item() == pytest.approx(entropy.item(), rel=1e-6)
    assert flow.sensitivities.item() == pytest.approx((pi.square() * (pi.log() + entropy)).sum().item(), rel=1e-6)


def test_no_possible_token(fold):
    hidden, weight = (x.to(fold) for x in as_projection(torch.zeros(2, 1500)))
    bias = torch.full((1500,), -math.inf, device=fold)
    flow = project_flow(hidden, weight, bias, torch.arange(2, device=fold), 1.0, VOCAB_TILE)
    assert all(values.isnan().all() for values in flow)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter, which computes with it
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_poisoned_logit_is_not_hidden(fold, poison):
    logits = draw_logits("random", 2500)
    bias = torch.zeros(2500)
    bias[1200] = poison
    hidden, weight = (x.to(fold) for x in as_projection(logits))
    flow = project_flow(hidden, weight, bias.to(fold), torch.arange(6, device=fold), 1.0, VOCAB_TILE)
    assert all(values.isnan().all() for values in flow)


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_temperature_scale_cap_and_bias(fold, dtype, truncated):
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(7, 24, generator=generator).to(dtype)
    weight = torch.randn(3001, 24, generator=generator).to(dtype)
    bias = torch.randn(3001, generator=generator).to(dtype)
    tokens = torch.randint(3001, (7,), generator=generator)
    candidates = draw_candidates(hidden @ weight.t(), tokens, "top-k") if truncated else None
    moved = [None if x is None else x.to(fold) for x in (hidden, weight, bias, tokens, candidates)]
    flow = project_flow(
        *moved[:4], temperature=0.7, vocab_tile=1024, softcap=5.0, logit_scale=0.5, candidates=moved[4]
    )

    def logits(x, w, b):
        return 5 * torch.tanh((x @ w.t() + b) * 0.5 / 5) / 0.7

    truth = naive_flow(logits(hidden.double(), weight.double(), bias.double()), tokens, candidates)
    # The naive version of the same dtype rounds what it projects, as every pass of TRL does
    naive = naive_flow(logits(*(x.float() for x in (hidden, weight, bias))), tokens, candidates)
    if dtype == torch.bfloat16:
        rounded = (hidden @ weight.t() + bias).float()
        naive = naive_flow(5 * torch.tanh(rounded * 0.5 / 5) / 0.7, tokens, candidates)
    for name, value, true, plain in zip(NAMES, flow, truth, naive, strict=True):
        error, naive_error = (value.cpu().double() - true).abs().max(), (plain.double() - true).abs().max()
        assert error <= 1.5 * naive_error + 2e-6, name


@pytest.mark.parametrize("vocab", [3, 1500, 2 * VOCAB_TILE + 100])
@pytest.mark.parametrize("sampler", ["top-k", "any tokens"])
@pytest.mark.parametrize("kind", ["random", "peaked", "large"])
def test_a_truncated_sampler(fold, kind, sampler, vocab):
    """Candidates that lie in several tiles, and candidates that hold nothing of the policy."""
    logits = draw_logits(kind, vocab)
    tokens = draw_tokens(logits)
    flow = check(logits, tokens, fold, candidates=draw_candidates(logits, tokens, sampler))
    assert flow.logps[0] == 0 and flow.sensitivities[0].abs() < 1e-9, "the only candidate: nothing to learn"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_truncated_sampler_in_half_precision(fold, dtype):
    logits = draw_logits("random", 1500, dtype=dtype)
    tokens = draw_tokens(logits)
    check(logits, tokens, fold, candidates=draw_candidates(logits, tokens, "top-k"))


def test_a_sampler_that_is_unknown_or_not_truncated(fold):
    logits = draw_logits("random", VOCAB_TILE + 100)
    tokens = draw_tokens(logits)
    whole = check(logits, tokens, fold)
    unknown = check(logits, tokens, fold, candidates=torch.full((6, 3), -1))
    assert all(torch.equal(a, b) for a, b in zip(whole, unknown, strict=True))
    everything = check(logits, tokens, fold, candidates=torch.randperm(logits.size(1)).expand(6, -1))
    for name, a, b in zip(NAMES, whole, everything, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-7, msg=name)


def test_impossible_candidates(fold):
    """They are none. Where there are no others, S is the whole vocabulary."""
    logits = draw_logits("random", 1500)
    tokens = torch.arange(20, 26)
    bias = torch.where(torch.arange(1500) < 10, -math.inf, 0.0)
    others = torch.stack([tokens, tokens + 10], -1)  # (6, 2)
    flow = check(logits, tokens, fold, bias, candidates=others)
    mixed = check(logits, tokens, fold, bias, candidates=torch.cat([others, tokens[:, None] - 20], -1))
    assert all(torch.equal(a, b) for a, b in zip(flow, mixed, strict=True))
    hidden, weight = as_projection(logits)
    moved = [x.to(fold) for x in (hidden, weight, bias, tokens)]
    impossible = torch.full((6, 2), 3, device=fold)
    whole, nothing = (project_flow(*moved, 1.0, VOCAB_TILE, candidates=x) for x in (None, impossible))
    assert all(torch.equal(a, b) for a, b in zip(whole, nothing, strict=True))


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_equals_the_half_temperature_identity(fold, temperature):
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(9, 16, generator=generator, dtype=torch.float32)
    weight = torch.randn(VOCAB_TILE + 500, 16, generator=generator)
    tokens = draw_tokens(hidden @ weight.t() / temperature)
    expected = two_projections(hidden, weight, tokens, temperature)
    flow = project_flow(hidden.to(fold), weight.to(fold), None, tokens.to(fold), temperature, VOCAB_TILE)
    # the identity itself is off by float32's rounding of ln p, twice
    torch.testing.assert_close(flow.sensitivities.cpu(), expected.sensitivities, rtol=0, atol=1e-5)
    truth = naive_flow(hidden.double() @ weight.double().t() / temperature, tokens)
    error = (flow.sensitivities.cpu() - truth.sensitivities).abs().max()
    assert error <= (expected.sensitivities - truth.sensitivities).abs().max()


def test_more_tokens_than_a_tile_has_rows(fold, monkeypatch):
    monkeypatch.setattr(projection, "TOKEN_CHUNK_SIZE", 4)
    monkeypatch.setattr(projection, "_BLOCK_ELEMENTS", 3000)
    logits = draw_logits("random", 1500, rows=11)
    tokens = draw_tokens(logits)
    check(logits, tokens, fold)
    check(logits, tokens, fold, candidates=draw_candidates(logits, tokens, "top-k"))


def test_no_token(fold):
    flow = project_flow(
        torch.empty(0, 8, device=fold),
        torch.randn(50, 8, device=fold),
        None,
        torch.empty(0, dtype=torch.long, device=fold),
        1.0,
        VOCAB_TILE,
    )
    assert [values.numel() for values in flow] == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logps_are_trls_bit_for_bit(fold, monkeypatch, dtype):
    """Where this pass stands for one of TRL's, what TRL makes of its log-probabilities must not move."""
    if fold == "cpu" and projection._fold_on(torch.device("cpu")) is kernel.fold_tile:
        # TRL's kernel, interpreted too; TRL 1.15 has nothing else
        monkeypatch.setattr(trl_kernels, "_use_triton", lambda device: True, raising=False)
    generator = torch.Generator().manual_seed(6)
    hidden = torch.randn(13, 32, generator=generator).to(fold, dtype)
    weight = torch.randn(VOCAB_TILE + 2000, 32, generator=generator).to(fold, dtype)
    tokens = torch.randint(len(weight), (13,), generator=generator).to(fold)
    logps, entropies = trl_projection(hidden, weight, tokens, temperature=0.9)
    flow = project_flow(hidden, weight, None, tokens, 0.9, VOCAB_TILE)
    assert torch.equal(flow.logps, logps)
    torch.testing.assert_close(flow.entropies, entropies, rtol=0, atol=2e-5)


def test_autocast_decides_the_dtype_of_the_projection():
    generator = torch.Generator().manual_seed(7)
    hidden, weight = torch.randn(5, 64, generator=generator), torch.randn(300, 64, generator=generator)
    tokens = torch.arange(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flow = project_flow(hidden, weight, None, tokens, 1.0, VOCAB_TILE)
    rounded = project_flow(hidden.bfloat16(), weight.bfloat16(), None, tokens, 1.0, VOCAB_TILE)
    exact = project_flow(hidden, weight, None, tokens, 1.0, VOCAB_TILE)
    assert all(torch.equal(a, b) for a, b in zip(flow, rounded, strict=True))
    assert not torch.equal(flow.logps, exact.logps)
