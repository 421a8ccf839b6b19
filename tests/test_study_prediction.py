"""benchmarks/study/prediction.py: its predictions where they must be exact, and its figures of merit by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot
from tqdm.auto import tqdm

from benchmarks.study.prediction import (
    PARTS,
    Batch,
    Probe,
    adamw_update,
    balance_pairs,
    batch_of,
    dot,
    measure,
    merits_by_size,
    pearson,
    phases,
    plain_pairs,
    report,
    sgd_update,
    sign_agreement,
    slope,
)
from opefo_trl.entropy_flow import entropy_sensitivity


ROWS, LENGTH, VOCABULARY = 4, 3, 5
ADAMW = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_batch(contexts=None):
    weights = torch.full((ROWS, LENGTH), 0.1, dtype=torch.float64)
    weights[1, 2] = 0.0
    weights[2, 0] = 0.3
    return Batch(
        tokens=torch.randint(VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1)),
        weights=weights,
        advantages=torch.tensor([[1.0], [-0.5], [0.7], [-1.2]], dtype=torch.float64),
        contexts=torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) if contexts is None else contexts,
        prompts=torch.tensor([0, 0, 1, 1]),
    )


def free(params, rows):
    """Every position has logits of its own."""
    return params["table"][rows]


def shared(params, rows):
    """Two layers: every token acts on every other."""
    hidden = torch.tanh(params["first"] @ FEATURES[rows])
    return 2 * (params["second"] @ hidden).squeeze(-1)


FEATURES = random(ROWS, LENGTH, 6, 1, seed=3)
FREE = {"table": random(ROWS, LENGTH, VOCABULARY)}
SHARED = {"first": random(7, 6, seed=4), "second": random(VOCABULARY, 7, seed=5)}
# Moments of an optimizer that has seen other batches
STATE = {
    name: {
        "step": torch.tensor(7.0),
        "exp_avg": 0.01 * random(*value.shape, seed=6),
        "exp_avg_sq": 1e-3 * random(*value.shape, seed=7).square(),
    }
    for name, value in SHARED.items()
}


def updates(params, state=None, rate=0.05, max_norm=1.0):
    return {
        "sgd": lambda gradient: sgd_update(gradient, rate),
        "adamw": lambda gradient: adamw_update(params, gradient, state or {}, ADAMW, max_norm),
    }


def steps_of(record, **wanted):
    return [step for step in record["steps"] if all(step[key] == value for key, value in wanted.items())]


def mean_entropy(policy, params, batch):
    log_pi = policy(params, batch.rows).log_softmax(-1)
    entropies = -(log_pi.exp() * log_pi).sum(-1)
    return entropies[batch.weights > 0].mean().item()


def test_free_logits_are_predicted_to_first_order():
    """Where logits are free parameters the flow is the whole truth: slope 1 as the step shrinks, error O(η)."""
    record = measure(free, FREE, make_batch(), updates(FREE), [1e-3, 1e-1, 1.0], 0.5)
    errors = []
    for size in (1e-1, 1e-3):
        (step,) = steps_of(record, balance="none", optimizer="sgd", size=size)
        errors.append(abs(step["measured"] / step["predicted"]["exact"] - 1))
        assert step["gain"] == pytest.approx(1, abs=1e-12)
        assert step["predicted"]["parametric"] == pytest.approx(step["predicted"]["exact"], rel=1e-12)
        for part in ("unequal gain", "same context", "same prompt", "other prompts", "preconditioning", "memory"):
            assert step["parts"][part] == pytest.approx(0, abs=1e-16), part
        assert step["tokens"]["exact"]["slope"] == pytest.approx(1, abs=10 * errors[-1])
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)


def test_the_flows_are_the_prediction():
    """Σ c·d of the record is P − N; the mean changes by η (P' − N') / n, which the balance makes 0."""
    batch = make_batch()
    record = measure(free, FREE, batch, updates(FREE), [1.0], 0.99)
    flow = record["flows"]["exact"]
    d = batch.weights * batch.advantages * entropy_sensitivity(FREE["table"], batch.tokens)
    assert flow["increase"] == pytest.approx(d[d > 0].sum().item(), rel=1e-12)
    assert flow["decrease"] == pytest.approx(-d[d < 0].sum().item(), rel=1e-12)
    assert record["trained_tokens"] == ROWS * LENGTH - 1
    (plain,) = steps_of(record, balance="none", optimizer="sgd")
    net = flow["increase"] - flow["decrease"]
    assert plain["predicted"]["exact"] == pytest.approx(0.05 * net / 11, rel=1e-12)
    (balanced,) = steps_of(record, balance="exact", optimizer="sgd")
    assert abs(flow["coefficient"]) > 0.01
    assert balanced["predicted"]["exact"] == pytest.approx(0, abs=1e-16)
    # On free logits what a token does to the mean is what it does to itself, so both λ are one
    assert flow["parametric_coefficient"] == pytest.approx(flow["coefficient"], rel=1e-9)
    assert plain["influence"]["exact"] == pytest.approx({"pearson": 1, "slope": 1, "sign": 1})


def test_tokens_of_one_context_share_free_logits():
    """Two samples from one table row: what is not a token's own is its twin's, and nothing else."""
    contexts = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH)
    contexts[1, 0] = contexts[0, 0]

    def policy(params, rows):
        index = contexts[rows]
        return params["table"].flatten(0, 1)[index]

    batch = make_batch(contexts)
    record = measure(policy, FREE, batch, updates(FREE), [1.0], 0.5)
    (step,) = steps_of(record, balance="none", optimizer="sgd")
    pi = FREE["table"][0, 0].softmax(-1)
    gradient = -pi * (pi.log() - (pi * pi.log()).sum())
    pushes = [
        batch.weights[row, 0] * batch.advantages[row, 0] * (one_hot(batch.tokens[row, 0], VOCABULARY) - pi)
        for row in (0, 1)
    ]
    expected = 0.05 * sum((push @ gradient).item() for push in pushes) / 11
    assert abs(expected) > 1e-5
    assert step["parts"]["same context"] == pytest.approx(expected, rel=1e-9)
    for part in ("unequal gain", "same prompt", "other prompts"):
        assert step["parts"][part] == pytest.approx(0, abs=1e-16), part


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("balance", ["none", "exact"])
def test_parametric_flow_equals_finite_difference(optimizer, balance):
    """By token, by step and by side; and its parts are what they are called, whatever the optimizer's state."""
    batch = make_batch()
    h = 1e-4
    record = measure(shared, SHARED, batch, updates(SHARED, STATE), [-h, h], 0.5)
    low, high = steps_of(record, balance=balance, optimizer=optimizer)
    difference = (high["measured"] - low["measured"]) / 2
    assert high["predicted"]["parametric"] == pytest.approx(difference, rel=1e-6)
    assert high["tokens"]["parametric"]["slope"] == pytest.approx(1, abs=1e-2)
    memory = high["parts"]["memory"]
    assert sum(high["parametric_sides"]) + memory == pytest.approx(high["predicted"]["parametric"], rel=1e-9)
    assert min(abs(side) for side in high["parametric_sides"]) > 1e-9


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parts_add_up_to_what_is_measured(optimizer):
    record = measure(shared, SHARED, make_batch(), updates(SHARED, STATE), [0.1, 1.0, 10.0], 0.5)
    steps = steps_of(record, optimizer=optimizer)
    assert len(steps) == 4 * 3
    for step in steps:
        assert tuple(step["parts"]) == PARTS
        assert sum(step["parts"].values()) == pytest.approx(step["measured"], rel=1e-9)
        assert step["parts"]["token-wise"] + step["parts"]["unequal gain"] == pytest.approx(step["predicted"]["own"])
        for part in ("same prompt", "other prompts", "second order"):
            assert abs(step["parts"][part]) > 1e-10, part
        assert (abs(step["parts"]["memory"]) > 1e-10) == (optimizer == "adamw")
        assert (abs(step["parts"]["preconditioning"]) > 1e-10) == (optimizer == "adamw")


def test_own_effects_and_prompts_against_single_gradients():
    """Own and same-prompt parts, from one gradient per token."""
    batch = make_batch()
    record = measure(shared, SHARED, batch, updates(SHARED), [1.0], 0.5)
    (step,) = steps_of(record, balance="none", optimizer="sgd")

    def gradients(value):
        def one(params, row, position):
            log_pi = shared(params, batch.rows)[row, position].log_softmax(-1)
            return value(log_pi, batch.tokens[row, position])

        return {
            (row, position): torch.func.grad(one)(SHARED, row, position)
            for row in range(ROWS)
            for position in range(LENGTH)
            if batch.weights[row, position] > 0
        }

    of_entropy = gradients(lambda log_pi, token: -(log_pi.exp() * log_pi).sum())
    of_logp = gradients(lambda log_pi, token: log_pi[token])
    effect = {
        (t, u): 0.05 * batch.weights[u] * batch.advantages[u[0], 0] * dot(of_entropy[t], of_logp[u]) / 11
        for t in of_entropy
        for u in of_logp
    }
    own = sum(effect[t, t] for t in of_entropy).item()
    prompt = sum(e for (t, u), e in effect.items() if t != u and t[0] // 2 == u[0] // 2).item()
    other = sum(e for (t, u), e in effect.items() if t[0] // 2 != u[0] // 2).item()
    assert step["predicted"]["own"] == pytest.approx(own, rel=1e-9)
    assert step["parts"]["same prompt"] == pytest.approx(prompt, rel=1e-9)
    assert step["parts"]["other prompts"] == pytest.approx(other, rel=1e-9)


def test_adamw_update_by_hand():
    """From m = 0.1, v = 0.04 after one step, with gradient 0.3 that clipping halves."""
    params = {"x": torch.tensor([2.0], dtype=torch.float64)}
    gradient = {"x": torch.tensor([0.3], dtype=torch.float64)}
    state = {"x": {"step": torch.tensor(1.0), "exp_avg": torch.tensor([-0.1]), "exp_avg_sq": torch.tensor([0.04])}}
    update = adamw_update(params, gradient, state, ADAMW, max_norm=0.15)
    first = (0.9 * 0.1 + 0.1 * 0.15) / (1 - 0.9**2)
    second = (0.999 * 0.04 + 0.001 * 0.15**2) / (1 - 0.999**2)
    assert update.step["x"].item() == pytest.approx(0.01 * first / (math.sqrt(second) + 1e-8), rel=1e-6)
    assert update.preconditioned["x"].item() == pytest.approx(0.01 * 0.15 / (math.sqrt(second) + 1e-8), rel=1e-6)
    assert update.rate == pytest.approx(0.01 * 0.5 / (math.sqrt(second) + 1e-8), rel=1e-6)


def test_figures_of_merit_by_hand():
    x, y = np.array([1.0, 2.0, 0.0, -1.0]), np.array([2.0, 1.0, 5.0, -3.0])
    # Means 0.5 and 1.25; Σ dx dy = 4.5, Σ dx² = 5, Σ dy² = 32.75
    assert pearson(x, y) == pytest.approx(4.5 / math.sqrt(5 * 32.75))
    assert slope(x, y) == pytest.approx((2 + 2 + 3) / 6)
    assert sign_agreement(x, y) == 1.0
    assert sign_agreement(x, -y) == 0.0
    assert sign_agreement(np.array([1.0, 1.0, -1.0, -1.0]), y) == 0.75
    for merit in (slope, sign_agreement):
        assert math.isnan(merit(np.zeros(4), y))
    assert math.isnan(pearson(np.ones(4), y))


def test_rows_of_the_tables_by_hand():
    pairs = {0.1: [(1.0, -1.0), (2.0, -2.0), (3.0, -3.0)], 1.0: [(1.0, 2.0), (2.0, -4.0), (-1.0, -3.0)]}
    # At size 1: Σxy = 2 − 8 + 3 = −3, Σx² = 6; means 2/3 and −5/3, Σ dx dy = 1/3, Σ dx² = 14/3, Σ dy² = 62/3
    assert merits_by_size(["a"], pairs) == ["a", "-1.00", f"{1 / math.sqrt(14 * 62):.2f}", "-0.5", "0.67"]


def test_pairs_by_hand():
    def step(balance, predicted, measured, memory):
        parts = {"memory": memory}
        values = {"predicted": {"exact": predicted}, "measured": measured, "parts": parts}
        return {"balance": balance, "optimizer": "adamw", "size": 1.0, **values}

    records = [{"steps": [step("none", 1.0, 5.0, 2.0), step("exact", 4.0, 12.0, 3.0)]} for _ in range(2)]
    assert plain_pairs(records, "adamw", "exact", 1.0) == [(1.0, 5.0)] * 2
    assert plain_pairs(records, "adamw", "exact", 1.0, without="memory") == [(1.0, 3.0)] * 2
    assert balance_pairs(records, "adamw", "exact", "exact", 1.0) == [(3.0, 7.0)] * 2
    assert balance_pairs(records, "adamw", "paper", "paper", 1.0) == []


def test_steps_are_cut_where_some_were_left_out():
    assert phases([{"step": step} for step in (3, 61, 1, 2, 60, 1, 120)]) == [[1, 2, 3], [60, 61], [120]]


def probed(make_trainer, strength, steps=(1, 3)):
    """Records of a real training, and the trainer at its end."""
    probe = Probe(set(steps), [0.1, 1.0], 0.05, tqdm(disable=True))
    trainer = make_trainer(callbacks=[probe], flow_strength=strength, learning_rate=1e-3, temperature=0.8)
    probe.trainer = trainer
    trainer.train()
    return probe.records, trainer


@pytest.mark.parametrize("strength, balance", [(0.0, "none"), (1.0, "exact")])
def test_the_step_of_the_trainer_is_the_one_that_is_measured(make_trainer, strength, balance):
    records, _ = probed(make_trainer, strength)
    assert [record["step"] for record in records] == [1, 3]
    for record in records:
        # Rounding of float32, worst at the first step, which divides each gradient by its own size
        assert record["trainer"]["step_error"] < 1e-2
        (step,) = steps_of(record, balance=balance, optimizer="adamw", size=1.0)
        assert step["measured"] == pytest.approx(record["trainer"]["measured"], rel=1e-3)
        for side in ("increase", "decrease"):
            assert record["flows"]["exact"][side] == pytest.approx(record["trainer"][side], rel=1e-4)
        coefficient = record["flows"]["exact"]["coefficient"] if strength else 0.0
        assert record["trainer"]["coefficient"] == pytest.approx(coefficient, abs=1e-5)
    assert abs(records[0]["flows"]["exact"]["coefficient"]) > 1e-3
    (first,) = steps_of(records[0], balance=balance, optimizer="adamw", size=1.0)
    (later,) = steps_of(records[1], balance=balance, optimizer="adamw", size=1.0)
    assert abs(first["parts"]["memory"]) < 1e-3 * abs(first["predicted"]["parametric"]) < abs(later["parts"]["memory"])


def test_batch_of_a_trainer(make_trainer):
    """The policy in float64 has the trainer's log-probabilities; contexts are equal where the preceding tokens are."""
    seen = {}

    class Keep(Probe):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            policy, params, batch = batch_of(self.trainer)
            (inputs,) = self.trainer._buffered_inputs
            direction = {name: random(*value.shape) for name, value in params.items()}
            low, high = ({name: params[name] + h * direction[name] for name in params} for h in (-1e-7, 1e-7))
            seen.update(
                logits=policy(params, batch.rows),
                batch=batch,
                inputs=inputs,
                difference=(policy(high, batch.rows) - policy(low, batch.rows)) / 2e-7,
                derivative=torch.func.jvp(lambda p: policy(p, batch.rows), (params,), (direction,))[1],
            )

    keep = Keep(set(), [], 0.0, tqdm(disable=True))
    trainer = make_trainer(callbacks=[keep], max_steps=1, temperature=0.8)
    keep.trainer = trainer
    trainer.train()
    batch, inputs = seen["batch"], seen["inputs"]
    # Nothing inside rounds to float32, which would drown a change as small as this
    torch.testing.assert_close(seen["difference"], seen["derivative"], rtol=1e-4, atol=1e-4)
    assert seen["derivative"].abs().mean() > 0.1
    logps = seen["logits"].log_softmax(-1).gather(-1, batch.tokens.unsqueeze(-1)).squeeze(-1)
    where = inputs["completion_mask"].bool()
    torch.testing.assert_close(logps[where].float(), inputs["flow_logps"][where], atol=1e-5, rtol=1e-5)
    prompts, tokens = inputs["prompt_ids"].tolist(), batch.tokens.tolist()
    assert sorted(batch.prompts.tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]
    twins = 0
    for i in range(8):
        for j in range(i):
            assert (batch.prompts[i] == batch.prompts[j]) == (prompts[i] == prompts[j])
            for t in range(batch.tokens.size(1)):
                same = prompts[i] == prompts[j] and tokens[i][:t] == tokens[j][:t]
                assert (batch.contexts[i, t] == batch.contexts[j, t]) == same
                twins += same and t > 0
    assert twins > 0, "some rows must begin alike"


def test_report(make_trainer, tmp_path, capsys):
    records = [
        {"arm": arm, "seed": 1, **record}
        for arm, strength in (("grpo", 0.0), ("opefo", 1.0))
        for record in probed(make_trainer, strength)[0]
    ]
    report(records, tmp_path, "Made by a test.")
    text = (tmp_path / "tables.md").read_text()
    assert text.strip() in capsys.readouterr().out
    plain = [steps_of(r, balance="none", optimizer="sgd", size=1.0)[0] for r in records]
    x, y = (np.array([s[k] if k == "measured" else s[k]["exact"] for s in plain]) for k in ("predicted", "measured"))
    (line,) = [line for line in text.splitlines() if line.startswith("| SGD | exact | ") and line.count("|") == 7]
    assert line.split(" | ")[3:] == [f"{np.corrcoef(x, y)[0, 1]:.2f}", f"{x @ y / (x @ x):.3g}", line.split(" | ")[5]]
    # Of the update that OPEFO's run takes itself: the last column
    own = [steps_of(r, balance="exact", optimizer="adamw", size=1.0)[0]["parts"] for r in records[2:]]
    interference = 1e4 * np.array([p["same context"] + p["same prompt"] + p["other prompts"] for p in own])
    (line,) = [line for line in text.splitlines() if line.startswith("| interference: ")]
    error, square = interference.std(ddof=1) / math.sqrt(2), math.sqrt((interference**2).mean())
    assert line.split(" | ")[-1] == f"{interference.mean():.1f} ± {error:.1f} ({square:.1f}) |"
    for name in ("scatter.png", "parts.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
