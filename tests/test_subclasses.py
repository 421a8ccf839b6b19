"""People's own trainers put together with OPEFO: each is right, or is stopped at the first step in one sentence."""

import logging

import pytest
import torch
from conftest import KeepGradient, equal, make_model, relative_error, weights_after
from independent import ONE_STEP, check_first_step
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from opefo_trl import EntropyFlowMixin, OPEFOConfig, OPEFOTrainer
from opefo_trl.entropy_flow import entropy_sensitivity
from opefo_trl.guards import RunStopped


def monitor(**settings):
    return OPEFOConfig(flow_strength=0.0, **settings)


def is_stopped_at_the_first_step(trainer, match):
    """Before the optimizer has moved a weight."""
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    with pytest.raises(RunStopped, match=match) as raised:
        trainer.train()
    assert trainer.state.global_step == 0 and equal(trainer.model.state_dict(), before)
    assert "\n" not in str(raised.value) and str(raised.value).count(". ") <= 1, "one or two sentences"


def full_logits(model, inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)  # (B, P+T)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)  # (B, P+T)
    num_tokens = inputs["completion_ids"].size(1)
    return model(input_ids=ids, attention_mask=attention).logits[:, -num_tokens - 1 : -1]  # (B, T, V)


def mean_loss(per_token_loss, inputs):
    mask = inputs["completion_mask"]
    return ((per_token_loss * mask).sum(-1) / mask.sum(-1)).mean()


class OldIdiom(GRPOTrainer):
    """A loss of its own, which takes the advantages as `(B,)`: TRL's own idiom for a long time."""

    def _compute_loss(self, model, inputs):
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        logps, _, _ = self._get_per_token_logps_and_entropies(
            model, ids, attention, inputs["completion_ids"].size(1), compute_entropy=True
        )
        ratio = (logps - logps.detach()).exp()  # (B, T)
        loss = mean_loss(-ratio * inputs["advantages"].unsqueeze(1), inputs)
        return loss / self.current_gradient_accumulation_steps


class OldIdiomOPEFO(EntropyFlowMixin, OldIdiom):
    pass


def test_loss_in_the_old_idiom_is_stopped(make_trainer):
    trainer = make_trainer(OldIdiomOPEFO, loss_type="grpo")
    is_stopped_at_the_first_step(trainer, "^The loss of OldIdiom .* does not train what OPEFO measured: at step 0")


def test_loss_in_the_old_idiom_can_be_monitored(make_trainer):
    """GRPO's own advantages reach it, and its gradient is that of GRPO's loss."""
    trainer = make_trainer(OldIdiomOPEFO, monitor, loss_type="grpo")
    assert equal(weights_after(trainer), weights_after(make_trainer(OldIdiom, GRPOConfig, loss_type="grpo")))
    logs = trainer.state.log_history[:3]
    assert all(log["entropy_flow/decrease"] > 0 and log["entropy_flow/seam_error"] < 1e-5 for log in logs)


class AddsSteps:
    """Advantages per token of shape `(B, T)`, with both signs in a sequence."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        steps = torch.linspace(-1.0, 0.5, output["completion_ids"].size(1))  # (T,)
        output["advantages"] = output["advantages"].unsqueeze(1) + steps  # (B, T)
        return output


class StepRewards(AddsSteps, GRPOTrainer):
    pass


class StepRewardsBelow(EntropyFlowMixin, StepRewards):
    pass


class StepRewardsAbove(AddsSteps, OPEFOTrainer):
    pass


@pytest.mark.parametrize("trainer_class", [StepRewardsBelow, StepRewardsAbove])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_advantages_per_token_are_balanced_as_they_are(make_trainer, trainer_class, loss_type):
    """Against a gradient computed here, in float64, from full logits: d = A_t·s_t."""
    keep = KeepGradient()
    trainer = make_trainer(trainer_class, loss_type=loss_type, callbacks=[keep], **ONE_STEP)
    trainer.train()
    policy, batches = keep.policy.double(), trainer._buffered_inputs
    terms = []  # (c, A, s, ln p), each (B, T)
    num_tokens = sum(batch["completion_mask"].sum() for batch in batches)
    for batch in batches:
        logits, mask = full_logits(policy, batch), batch["completion_mask"].double()  # (B, T, V), (B, T)
        logps = logits.log_softmax(-1).gather(-1, batch["completion_ids"].unsqueeze(-1)).squeeze(-1)  # (B, T)
        per_sequence = mask / mask.sum(-1, keepdim=True) / len(mask) / len(batches)  # (B, T)
        weights = per_sequence if loss_type == "grpo" else mask / num_tokens  # (B, T)
        sensitivities = entropy_sensitivity(logits.detach(), batch["completion_ids"])  # (B, T)
        terms.append((weights, batch["advantages"].double(), sensitivities, logps))
    flow = torch.cat([(c * a * s).flatten() for c, a, s, _ in terms])
    increase, decrease = flow.clamp(min=0).sum(), -flow.clamp(max=0).sum()
    coefficient = ((decrease - increase) / (decrease + increase)).clamp(-0.5, 0.5)
    assert coefficient.abs() > 1e-3
    for c, a, s, logps in terms:
        (-(c * a * (1 + coefficient * (a * s).sign()) * logps).sum()).backward(retain_graph=True)
    expected = {name: parameter.grad for name, parameter in policy.named_parameters()}
    assert relative_error(keep.gradient, expected) < 2e-6
    assert trainer.state.log_history[0]["entropy_flow/coefficient"] == pytest.approx(coefficient.item(), abs=1e-5)


def test_advantages_per_token_at_strength_zero_are_stocks(make_trainer):
    monitored = weights_after(make_trainer(StepRewardsBelow, monitor, gradient_accumulation_steps=2))
    assert equal(monitored, weights_after(make_trainer(StepRewards, GRPOConfig, gradient_accumulation_steps=2)))


def own_rewards(self, inputs, prompts, completions, completion_ids_list):
    return torch.tensor([[float(completion.count("a"))] for completion in completions])


def test_rewards_without_super(make_trainer):
    above = type("Above", (OPEFOTrainer,), {"_calculate_rewards": own_rewards})
    stock = type("Stock", (GRPOTrainer,), {"_calculate_rewards": own_rewards})
    below = type("Below", (EntropyFlowMixin, stock), {})
    ends = [weights_after(make_trainer(trainer_class, monitor)) for trainer_class in (above, below)]
    expected = weights_after(make_trainer(stock, GRPOConfig))
    assert all(equal(end, expected) for end in ends)


@pytest.mark.parametrize("bases", [(EntropyFlowMixin, GMPOTrainer), (GMPOTrainer, OPEFOTrainer)])
@pytest.mark.parametrize("rows", [8, 1])
def test_gmpo_is_stopped(make_trainer, bases, rows):
    """Its loss takes `(B,)` alone; with one row the shapes fit by chance, and the gradient tells."""
    config_class = type("Config", (OPEFOConfig, GMPOConfig), {})
    trainer = make_trainer(
        type("Mixed", bases, {}), config_class, per_device_train_batch_size=rows, gradient_accumulation_steps=8 // rows
    )
    is_stopped_at_the_first_step(trainer, "^The loss of GMPOTrainer (fails on `advantages`|.* does not train what)")


def ends_in_trls_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    return self._compute_loss(model, inputs)


@pytest.mark.parametrize("config_class", [OPEFOConfig, monitor])
def test_compute_loss_that_passes_by_the_balance_is_stopped(make_trainer, config_class):
    trainer = make_trainer(type("Mine", (OPEFOTrainer,), {"compute_loss": ends_in_trls_loss}), config_class)
    is_stopped_at_the_first_step(trainer, "^`compute_loss` of Mine does not call `super\\(\\).compute_loss`")
    assert not any("entropy_flow" in name for name in trainer._metrics["train"]), "nothing is logged as applied"


def test_the_same_compute_loss_below_is_balanced(make_trainer):
    theirs = type("Theirs", (GRPOTrainer,), {"compute_loss": ends_in_trls_loss})
    keep = KeepGradient()
    check_first_step(make_trainer(type("Mine", (EntropyFlowMixin, theirs), {}), callbacks=[keep], **ONE_STEP), keep)


class AddedTerm(GRPOTrainer):
    """Adds a term per token to the advantages on the way to the loss, as TRL's MiniLLM did."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        term = torch.linspace(-1.0, 0.5, inputs["completion_ids"].size(1))  # (T,)
        inputs = {**inputs, "advantages": inputs["advantages"].unsqueeze(1) + term}  # (B, T)
        return self._compute_loss(model, inputs)


def test_a_term_added_below_is_stopped_and_can_be_monitored(make_trainer, caplog):
    mixed = type("Mixed", (EntropyFlowMixin, AddedTerm), {})
    is_stopped_at_the_first_step(make_trainer(mixed), "does not train what OPEFO measured")
    stock = weights_after(make_trainer(AddedTerm, GRPOConfig))
    with caplog.at_level(logging.WARNING):
        assert equal(weights_after(make_trainer(mixed, monitor)), stock)
    assert "The logged flows are those of GRPO's loss, not of this one" in caplog.text


def test_a_term_added_above_is_stopped(make_trainer):
    mixed = type("Mixed", (AddedTerm, OPEFOTrainer), {})
    is_stopped_at_the_first_step(make_trainer(mixed), "^`compute_loss` of AddedTerm does not call `super")


def test_advantages_changed_on_the_way_to_compute_loss_are_stopped(make_trainer):
    class Mine(OPEFOTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return super().compute_loss(model, {**inputs, "advantages": inputs["advantages"] + 1}, *args, **kwargs)

    is_stopped_at_the_first_step(make_trainer(Mine), "passes advantages to `compute_loss` that OPEFO has not measured")


class OwnLogps(GRPOTrainer):
    """Log-probabilities from full logits, as trainers of images have them."""

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, **kwargs):
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, -logits_to_keep - 1 : -1]
        log_pi = logits.log_softmax(-1)  # (B, T, V)
        logps = log_pi.gather(-1, input_ids[:, -logits_to_keep:].unsqueeze(-1)).squeeze(-1)  # (B, T)
        return logps, -(log_pi.exp() * log_pi).sum(-1), None


def test_log_probabilities_of_its_own_are_stopped(make_trainer):
    mixed = type("Mixed", (EntropyFlowMixin, OwnLogps), {})
    match = "^`_get_per_token_logps_and_entropies` of OwnLogps does not call the model with `fused_lm_head=True`"
    is_stopped_at_the_first_step(make_trainer(mixed), match)


class OwnRollouts(OPEFOTrainer):
    """Makes its rollout batches itself, here as stock does."""

    def _generate_and_score_completions(self, inputs):
        return GRPOTrainer._generate_and_score_completions(self, inputs)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_rollouts_of_its_own_are_measured(make_trainer, loss_type):
    keep = KeepGradient()
    check_first_step(make_trainer(OwnRollouts, loss_type=loss_type, callbacks=[keep], **ONE_STEP), keep)


class Replay(OPEFOTrainer):
    """From the second batch on, half of the rows are those of the batch before."""

    kept = None

    def _generate_and_score_completions(self, inputs):
        output = GRPOTrainer._generate_and_score_completions(self, inputs)
        if self.kept is not None and self.kept["completion_ids"].size(1) == output["completion_ids"].size(1):
            for name in ("completion_ids", "completion_mask", "advantages"):
                output[name] = torch.cat([self.kept[name][:4], output[name][4:]])
        self.kept = {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
        return output


def test_replayed_rows_are_measured(make_trainer):
    trainer = make_trainer(Replay)
    trainer.train()
    assert all(log["entropy_flow/decrease"] > 0 for log in trainer.state.log_history[:3])


def test_batches_that_trl_does_not_hold_are_stopped(make_trainer):
    class Mine(GRPOTrainer):
        def _prepare_inputs(self, generation_batch):
            return dict(super()._prepare_inputs(generation_batch))

    mixed = type("Mixed", (EntropyFlowMixin, Mine), {})
    is_stopped_at_the_first_step(make_trainer(mixed), "^`_prepare_inputs` of .* returns batches that are not in")


class KeywordOnly(GRPOTrainer):
    def __init__(self, *, model, reward_funcs, args, train_dataset, processing_class, callbacks=None):
        super().__init__(
            model, reward_funcs, args, train_dataset, processing_class=processing_class, callbacks=callbacks
        )


def test_a_trainer_below_that_takes_keywords_alone(make_trainer):
    keep = KeepGradient()
    mixed = type("Mixed", (EntropyFlowMixin, KeywordOnly), {})
    check_first_step(make_trainer(mixed, callbacks=[keep], **ONE_STEP), keep)


# Broken seams, as a release of TRL or a patch of it could break them


def replace_loss(monkeypatch, change):
    loss = GRPOTrainer._compute_loss
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda self, model, inputs: change(self, loss, model, inputs))


def ignore_advantages(self, loss, model, inputs):
    return loss(self, model, {**inputs, "advantages": inputs["advantages"].mean(-1)})


def change_weights(self, loss, model, inputs):
    mask = inputs["completion_mask"].clone()
    mask[:, 0] = 0
    return loss(self, model, {**inputs, "completion_mask": mask})


def halve(self, loss, model, inputs):
    return loss(self, model, inputs) * 0.5


def other_ratio(self, loss, model, inputs):
    return loss(self, model, {**inputs, "old_per_token_logps": inputs["flow_logps"] - 0.01})


def no_gradient(self, loss, model, inputs):
    return loss(self, model, inputs).detach() + 0 * sum(parameter.sum() for parameter in model.parameters())


def bypass_the_head(self, loss, model, inputs):
    logits = full_logits(model, inputs)
    logps = logits.log_softmax(-1).gather(-1, inputs["completion_ids"].unsqueeze(-1)).squeeze(-1)  # (B, T)
    return mean_loss(-(logps - logps.detach()).exp() * inputs["advantages"], inputs)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (ignore_advantages, r"\d\.\d+"),
        (change_weights, "1"),
        (halve, "0.5"),
        (other_ratio, "0.01"),
        (no_gradient, "inf"),
        (bypass_the_head, "inf"),
    ],
)
def test_a_broken_seam_is_found_at_the_first_step(make_trainer, monkeypatch, change, error):
    replace_loss(monkeypatch, change)
    match = rf"^The loss of GRPOTrainer \(TRL .* its gradient is off by {error} of the largest −c·A'\. It must use"
    is_stopped_at_the_first_step(make_trainer(loss_type="grpo", gradient_accumulation_steps=2), match)


def test_a_seam_that_breaks_later_is_found_then(make_trainer, monkeypatch):
    def change(self, loss, model, inputs):
        return loss(self, model, inputs) * (0.9 if self.state.global_step == 2 else 1.0)

    replace_loss(monkeypatch, change)
    trainer = make_trainer(max_steps=4)
    with pytest.raises(RunStopped, match="at step 2 its gradient is off by 0.1"):
        trainer.train()


def test_an_intact_seam_is_logged(make_trainer):
    trainer = make_trainer(model=make_model(0.5), loss_type="vespo")
    trainer.train()
    errors = [log["entropy_flow/seam_error"] for log in trainer.state.log_history[:3]]
    assert all(0 <= error < 1e-5 for error in errors)
