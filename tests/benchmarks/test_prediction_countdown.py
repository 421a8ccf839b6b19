"""benchmarks/study/prediction/countdown.py: policy, batch and step of a real trainer."""

import pytest
import torch
from prediction_policies import random
from tqdm.auto import tqdm

from benchmarks.study.prediction.countdown import Probe, batch_of, params_of, policy_of
from benchmarks.study.prediction.records import steps_of


def probed(make_trainer, strength):
    """Records of a real training's first and third step."""
    probe = Probe({1, 3}, [0.1, 1.0], 0.05, tqdm(disable=True))
    trainer = make_trainer(callbacks=[probe], flow_strength=strength, learning_rate=1e-3, temperature=0.8)
    probe.trainer = trainer
    trainer.train()
    return probe.records


@pytest.mark.parametrize("strength, balance", [(0.0, "none"), (1.0, "exact")])
def test_the_step_of_the_trainer_is_the_one_that_is_measured(make_trainer, strength, balance):
    records = probed(make_trainer, strength)
    assert [record["step"] for record in records] == [1, 3]
    for record in records:
        # Rounding of float32, worst at the first step, which divides each gradient by its own size
        assert record["trainer"]["step_error"] < 1e-2
        (step,) = steps_of([record], balance=balance, optimizer="adamw", size=1.0)
        assert step["measured"] == pytest.approx(record["trainer"]["measured"], rel=1e-3)
        for side in ("increase", "decrease"):
            assert record["flows"]["exact"][side] == pytest.approx(record["trainer"][side], rel=1e-4)
        coefficient = record["flows"]["exact"]["coefficient"] if strength else 0.0
        assert record["trainer"]["coefficient"] == pytest.approx(coefficient, abs=1e-5)
    assert abs(records[0]["flows"]["exact"]["coefficient"]) > 1e-3
    (first,) = steps_of(records[:1], balance=balance, optimizer="adamw", size=1.0)
    (later,) = steps_of(records[1:], balance=balance, optimizer="adamw", size=1.0)
    assert abs(first["parts"]["memory"]) < 1e-3 * abs(first["predicted"]["parametric"]) < abs(later["parts"]["memory"])


def test_batch_of_a_trainer(make_trainer):
    """The policy in float64 has the trainer's log-probabilities; contexts are equal where the preceding tokens are."""
    seen = {}

    class Keep(Probe):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            (inputs,) = self.trainer._buffered_inputs
            policy, params, batch = policy_of(self.trainer, inputs), params_of(model), batch_of(self.trainer, inputs)
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
    assert batch.prompts.unique(return_counts=True)[1].tolist() == [4, 4]
    twins = 0
    for i in range(8):
        for j in range(i):
            assert (batch.prompts[i] == batch.prompts[j]) == (prompts[i] == prompts[j])
            for t in range(batch.tokens.size(1)):
                same = prompts[i] == prompts[j] and tokens[i][:t] == tokens[j][:t]
                assert (batch.contexts[i, t] == batch.contexts[j, t]) == same
                twins += same and t > 0
    assert twins > 0, "some rows must begin alike"
