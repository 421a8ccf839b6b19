"""The rivals of benchmarks/study against numbers worked out by hand, and the trainer that applies them."""

import math
from functools import partial

import pytest
import torch
from conftest import KeepGradient, relative_error, weights_after
from trl import GRPOConfig, GRPOTrainer

from benchmarks.study.arms import RivalTrainer, make_arms
from benchmarks.study.rivals import (
    Entrocraft,
    EntroPIC,
    RepoR,
    clip_cov,
    next_repo_coefficient,
    random_drop,
    repo_r,
    stare,
    steer,
)
from benchmarks.study.tasks import TASKS
from opefo_trl import OPEFOConfig


ADVANTAGES = torch.tensor([[2.0], [-1.0]])
P = torch.tensor([[0.5, 0.25, 0.8], [0.1, 0.5, 0.5]])
LOGPS = P.log()
ENTROPIES = torch.tensor([[0.2, 0.4, 0.6], [0.2, 0.6, 9.0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])  # the last token is padding


def test_stare_weighs_the_rarest_right_tokens_while_entropy_is_low():
    # Mean entropy of the five tokens: 2.0 / 5 = 0.4. Right ones: three, of which int(0.4 · 3) = 1; the rarest is 0.25.
    low = stare(ADVANTAGES, LOGPS, ENTROPIES, MASK, entropy_threshold=0.41, share=0.4)
    torch.testing.assert_close(low, torch.tensor([[2.0, 2.2, 2.0], [-1.0, -1.0, -1.0]]))
    high = stare(ADVANTAGES, LOGPS, ENTROPIES, MASK, entropy_threshold=0.39, share=0.4)
    assert torch.equal(high, ADVANTAGES.expand(2, 3))


def test_stare_leaves_out_padding():
    # int(0.5 · 2) = 1 of the two right tokens that are trained; the rarest of all, 0.01, is padding.
    logps = torch.tensor([[0.5, 0.25, 0.01]]).log()
    out = stare(
        torch.ones(1, 1), logps, torch.zeros(1, 3), torch.tensor([[1, 1, 0]]), entropy_threshold=0.3, share=0.5
    )
    torch.testing.assert_close(out, torch.tensor([[1.0, 1.1, 1.0]]))


def test_steer_weighs_by_the_size_of_the_estimated_change():
    # |A p (1 − p)(ln p + H)|, H chosen so that ln p + H is 1, −0.5 and 2:
    # 1 · 0.25 · 1 = 0.25;  2 · 0.25 · 0.5 = 0.25, the sign is not used;  2 · 0.16 · 2 = 0.64, the largest.
    # Weights: 0.8^(0.25 / 0.64) = 0.9165 twice, and 0.8. The masked token would be larger: 2 · 0.25 · 9.
    advantages = torch.tensor([[-1.0], [2.0]])
    logps = torch.tensor([[0.5, 0.5], [0.5, 0.8]]).log()
    entropies = torch.tensor([[1.0, 9.0], [-0.5, 2.0]]) - logps
    out = steer(advantages, logps, entropies, torch.tensor([[1, 0], [1, 1]]))
    assert out[0, 0].item() == pytest.approx(-0.9165, abs=1e-4)
    assert out[1].tolist() == pytest.approx([2 * 0.9165, 1.6], abs=1e-4)


def test_steer_without_any_change_is_grpo():
    assert torch.equal(steer(torch.zeros(2, 1), LOGPS, ENTROPIES, MASK), torch.zeros(2, 3))


def test_repo_r_moves_advantages_by_the_surprisal():
    # ζ = 0.5, −ln p = 1 and 4. Right: 2 (1 + 0.5) = 3 and 2 (1 + 2) = 6. Wrong: −1 (1 − 0.5) = −0.5 and, as
    # −1 (1 − 2) = 1 would change the sign, 0.
    logps = torch.tensor([[-1.0, -4.0], [-1.0, -4.0]])
    assert repo_r(ADVANTAGES, logps, 0.5).tolist() == [[3.0, 6.0], [-0.5, 0.0]]
    # ζ = −0.5 the other way round: 2 (1 − 0.5) = 1 and 0; −1 (1 + 0.5) = −1.5 and −1 (1 + 2) = −3
    assert repo_r(ADVANTAGES, logps, -0.5).tolist() == [[1.0, 0.0], [-1.5, -3.0]]


@pytest.mark.parametrize(
    ("coefficient", "entropy", "expected"),
    [
        (1e-3, 0.3, 2e-3),  # too low, and it pushes up
        (0.04, 0.3, 0.05),  # the same, at the bound
        (1e-3, 0.5, 5e-4),  # too high, but it pushes up: halved
        (1.5e-4, 0.5, -1e-4),  # the same, at the small end: the sign changes
        (-1e-3, 0.5, -2e-3),  # too high, and it pushes down
        (-1.5e-4, 0.3, 1e-4),  # too low, but it pushes down, at the small end
    ],
)
def test_repo_r_controls_its_coefficient(coefficient, entropy, expected):
    assert next_repo_coefficient(coefficient, entropy, target=0.4) == pytest.approx(expected)


def test_repo_r_keeps_its_coefficient_from_batch_to_batch():
    rule = RepoR(entropy_target=0.41)
    rule(ADVANTAGES, LOGPS, ENTROPIES, MASK)  # mean entropy 0.4, without the padding
    assert rule.coefficient == pytest.approx(2e-3)
    out = rule(ADVANTAGES, LOGPS, ENTROPIES, MASK)
    assert out[0, 1].item() == pytest.approx(2 * (1 + 4e-3 * math.log(4)), rel=1e-5)


def test_clip_cov_drops_tokens_between_its_bounds():
    # Tokens of ln p = −1, −2.05, −8 with A = 2, and −1, −1, −4 with A = −2, the last one padding.
    # Means: A (2 · 3 − 2 · 2) / 5 = 0.4, ln p −13.05 / 5 = −2.61. Covariances: 1.6 · (1.61, 0.56, −5.39) = 2.576,
    # 0.896, −8.624; −2.4 · (1.61, 1.61) = −3.864, and the padding −2.4 · (−1.39) = 3.336. In (1, 5): the first alone.
    logps = torch.tensor([[-1.0, -2.05, -8.0], [-1.0, -1.0, -4.0]])
    advantages = torch.tensor([[2.0], [-2.0]])
    out = clip_cov(advantages, logps, ENTROPIES, MASK, torch.Generator(), share=1.0)
    assert out.tolist() == [[0.0, 2.0, 2.0], [-2.0, -2.0, -2.0]]
    # In (−10, −3) the third and both of the other row. Of five tokens 2e-4 is less than one: one; 0.4: two of them
    for share, dropped in ((2e-4, 1), (0.4, 2)):
        generator = torch.Generator().manual_seed(0)
        out = clip_cov(advantages, logps, ENTROPIES, MASK, generator, share, bounds=(-10, -3))
        assert out.flatten()[[0, 1, 5]].tolist() == [2.0, 2.0, -2.0]
        assert (out == 0).sum() == dropped


def test_random_drop_drops_its_share():
    out = random_drop(torch.ones(100, 1), torch.zeros(100, 100), None, None, torch.Generator().manual_seed(0))
    assert set(out.unique().tolist()) == {0.0, 1.0}
    assert out.mean().item() == pytest.approx(0.8, abs=0.02)  # five standard deviations


def keep(advantages, logps, entropies, mask):
    return advantages.expand_as(logps)


def test_a_rule_that_changes_nothing_is_grpo_bit_for_bit(make_trainer):
    rival = make_trainer(partial(RivalTrainer, rule=keep), OPEFOConfig, flow_strength=0.0)
    weights = weights_after(rival)
    expected = weights_after(make_trainer(GRPOTrainer, GRPOConfig))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert {entry["changed_share"] for entry in rival.state.log_history if "changed_share" in entry} == {0.0}


def test_the_gradient_is_that_of_the_rewritten_advantages(make_trainer):
    """−Σ A' ∇ln p / n, from the model itself."""
    seen = {}

    def rule(advantages, logps, entropies, mask):
        out = repo_r(advantages, logps, 0.05)
        seen.setdefault("first", (out, logps, mask, advantages))
        return out

    kept = KeepGradient()
    trainer = make_trainer(
        partial(RivalTrainer, rule=rule), flow_strength=0.0, max_steps=1, max_grad_norm=0.0, callbacks=[kept]
    )
    compute_loss = GRPOTrainer.compute_loss
    batches = []

    def spy(self, model, inputs, *args):
        batches.append(inputs)
        return compute_loss(self, model, inputs, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "compute_loss", spy)
        trainer.train()
    changed, measured, mask, advantages = seen["first"]
    inputs = batches[0]
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    policy = kept.policy.double()
    length = mask.size(1)
    logits = policy(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]  # (B, T, V)
    logps = logits.log_softmax(-1).gather(-1, inputs["completion_ids"].unsqueeze(-1)).squeeze(-1)  # (B, T)
    assert ((logps - measured) * mask).abs().max() < 1e-4
    by_hand = advantages * (1 - 0.05 * advantages.sign() * logps.detach()).clamp(min=0)  # (B, T)
    assert (by_hand - advantages).abs().max() > 0.05  # the rule does something here
    (-(by_hand * logps * mask).sum() / mask.sum()).backward()
    expected = {name: parameter.grad for name, parameter in policy.named_parameters()}
    assert relative_error(kept.gradient, expected) < 1e-5
    assert trainer.state.log_history[0]["changed_share"] == 1.0


def test_a_split_batch_is_refused(make_trainer):
    with pytest.raises(ValueError, match="split in 2"):
        make_trainer(
            partial(RivalTrainer, rule=keep),
            flow_strength=0.0,
            gradient_accumulation_steps=2,
            per_device_train_batch_size=4,
        )


def test_every_rival_gets_the_same_level_of_entropy():
    task = TASKS["countdown"]
    arms = make_arms(task)
    low, high = task.entropy_targets
    assert arms["repo_r"].make_rule(1).entropy_target == low
    assert arms["stare"].make_rule(1).keywords == {"entropy_threshold": low}
    assert arms["entropy_bonus"].settings["entropy_target"] == low
    assert {arm.settings.get("flow_entropy_target") for arm in arms.values()} == {None, low, high}


def test_entropic_weighs_right_and_wrong_answers_by_a_controller():
    # Mean entropy 0.4, target 0.5: e = −0.1. First α = −0.1, so 2 · 0.9 and −1 · 1.1; then I = −0.001, α = −0.101.
    rule = EntroPIC(0.5)
    first = rule(ADVANTAGES, LOGPS, ENTROPIES, MASK)
    torch.testing.assert_close(first, torch.tensor([[1.8], [-1.1]]).expand(2, 3))
    second = rule(ADVANTAGES, LOGPS, ENTROPIES, MASK)
    torch.testing.assert_close(second, torch.tensor([[2 * 0.899], [-1.101]]).expand(2, 3))


def test_entrocraft_trains_one_side_outside_of_a_falling_band():
    # Mean entropy 0.4. The band is 0.45 to 0.55, then 0.36 to 0.44 and from the third batch on 0.27 to 0.33.
    rule = Entrocraft(start=0.5, end=0.3, steps=2)
    below, inside, above, still = (rule(ADVANTAGES, LOGPS, ENTROPIES, MASK)[:, 0].tolist() for _ in range(4))
    assert below == [0.0, -1.0]
    assert inside == [2.0, -1.0]
    assert above == still == [2.0, 0.0]
