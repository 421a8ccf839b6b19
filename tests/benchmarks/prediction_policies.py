"""Two small policies in float64 whose entropies are known: what the tests of the prediction study share."""

import torch

from benchmarks.study.prediction.decomposition import measure
from benchmarks.study.prediction.flows import Batch
from benchmarks.study.prediction.updates import adamw_update, sgd_update


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


def updates(params, state=None):
    """SGD at a rate of 0.05, and AdamW."""
    return {
        "sgd": lambda gradient: sgd_update(gradient, 0.05),
        "adamw": lambda gradient: adamw_update(params, gradient, state or {}, ADAMW, max_norm=1.0),
    }


def single_gradients(value, batch):
    """∇ of `value(log_pi, token)` of every trained token of the shared policy, by (row, position)."""

    def one(params, row, position):
        log_pi = shared(params, batch.rows)[row, position].log_softmax(-1)
        return value(log_pi, batch.tokens[row, position])

    return {
        (row, position): torch.func.grad(one)(SHARED, row, position)
        for row in range(ROWS)
        for position in range(LENGTH)
        if batch.weights[row, position] > 0
    }


def entropy_of(log_pi, token):
    return -(log_pi.exp() * log_pi).sum()


def logp_of(log_pi, token):
    return log_pi[token]


def make_records():
    """Two batches of each arm, as a study records them, without a training."""
    records = []
    for step, scale in enumerate((1.0, 1.5), start=1):
        params = {name: scale * value for name, value in SHARED.items()}
        for arm, advantages in (("grpo", [1.0, -0.5, 0.7, -1.2]), ("opefo", [-0.8, 1.1, -0.9, 0.6])):
            batch = make_batch()._replace(advantages=torch.tensor(advantages, dtype=torch.float64).unsqueeze(1))
            record = measure(shared, params, batch, updates(params, STATE), [0.1, 1.0, 3.0], 0.5, ("exact",))
            records.append({"arm": arm, "seed": 1, "step": step, "trainer": {"step_error": 1e-4 * step}, **record})
    return records
