"""docs/method.md: its formulas, derived without the package, and the numbers and defaults printed there."""

import ast
import math
import re
from pathlib import Path

import pytest
import torch


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
PROSE = " ".join(PAGE.split())

# The text of each formula, so that none changes on the page alone; the tests below say why each is right
FORMULAS = {
    1: "Δz = η · c · A · (e_a − π)",
    2: "∂H/∂z_j = −π_j (ln π_j + H)",
    3: "ΔH = η · c · d + O(η²)   with   d = A · s",
    4: "s = −[ p (ln p + H) − Σ_j π_j² (ln π_j + H) ]",
    5: "Σ_a π_a s_a = 0",
    6: "H = ln Σe − Σe(z − m) / Σe",
    7: "Σ_j π_j² = Σe² / (Σe)²        Σ_j π_j² ln π_j = Σe²(z − m) / (Σe)² − ln Σe · Σ_j π_j²",
    8: '"sampled"   s = −p (ln p + H)',
    9: '"paper"     s = −(1 − p)² (ln p + H)',
    10: "P = Σ_{d>0} c · d        N = Σ_{d<0} c · |d|",
    11: "λ_balance = (N − P) / (N + P)   so that   (1 + λ_balance) P = (1 − λ_balance) N",
    12: "λ = clip( strength · λ_balance + gain · (H* − H̄) / H*, −λ_max, λ_max )",
    13: "A' = A (1 + λ) where d > 0,   A (1 − λ) where d < 0,   A where d = 0",
    14: "(1 + λ) P − (1 − λ) N = (λ − λ_balance) (P + N)",
    15: "H̄ = H* (1 − r / gain)",
    16: "Σ_t w · A · (1/n_i) Σ_u ∇ln p_u = Σ_u w · A · ∇ln p_u",
    17: "∂loss / ∂ln p = −c · A' + β · w · (1 − e^x)        x = ln p_ref − ln p",
    18: "s = −[ p (ln p + H) − (1/m) Σ_{j∈S} π_j² (ln π_j + H) ]",
}


def table(first_column):
    """Rows below the header whose first cell is this one, as lists of cells."""
    lines = PAGE.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def numbers(pattern, text=PROSE):
    """The numbers that the page prints in the one place that matches."""
    (match,) = re.finditer(pattern, text)
    return [float(group.replace("−", "-")) for group in match.groups()]


NUMBER = r"(−?\d+(?:\.\d+)?)"


def entropy(z):
    log_pi = z.log_softmax(-1)
    return -(log_pi.exp() * log_pi).sum(-1)


def softmaxes(rows, vocabulary, scale, seed=0):
    """ln π, H and a sampled token's ln p, each with a last dimension, in float64."""
    generator = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)
    log_pi = z.log_softmax(-1)
    tokens = torch.multinomial(log_pi.exp(), 1, generator=generator)
    return z, tokens, log_pi, entropy(z).unsqueeze(-1), log_pi.gather(-1, tokens)


def mean_term(log_pi, h):
    return (log_pi.exp() ** 2 * (log_pi + h)).sum(-1, keepdim=True)


def exact(log_pi, h, logp):
    return mean_term(log_pi, h) - logp.exp() * (logp + h)


def paper(h, logp):
    return -((1 - logp.exp()) ** 2) * (logp + h)


def test_the_page_has_these_formulas():
    blocks = "\n".join(re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL))
    found = re.findall(r"^\((\d+)\)  (.*)$", blocks, re.MULTILINE)
    assert {int(number): text.strip() for number, text in found} == FORMULAS
    assert len(found) == len([line for line in blocks.splitlines() if line])
    assert all(1 <= int(number) <= len(FORMULAS) for number in re.findall(r"\((\d+)\)", PAGE))


def test_step_gradient_and_sensitivity():
    """(1) to (4), by automatic differentiation and by a central difference of the entropy along the step."""
    z, tokens, log_pi, h, logp = softmaxes(60, 13, 2.0)
    leaf = z.clone().requires_grad_()
    leaf.log_softmax(-1).gather(-1, tokens).sum().backward()
    direction = torch.nn.functional.one_hot(tokens.squeeze(-1), 13) - log_pi.exp()
    torch.testing.assert_close(leaf.grad, direction, rtol=1e-12, atol=1e-14)  # (1): c·A times this
    leaf = z.clone().requires_grad_()
    entropy(leaf).sum().backward()
    gradient = -log_pi.exp() * (log_pi + h)
    torch.testing.assert_close(leaf.grad, gradient, rtol=1e-10, atol=1e-14)  # (2)
    s = exact(log_pi, h, logp)
    torch.testing.assert_close(s, (gradient * direction).sum(-1, keepdim=True), rtol=1e-10, atol=1e-14)  # (4)
    c, advantage, eta = 0.7, -1.3, 1e-6
    change = entropy(z + eta * c * advantage * direction) - entropy(z - eta * c * advantage * direction)
    torch.testing.assert_close(s * c * advantage, change.unsqueeze(-1) / (2 * eta), rtol=1e-6, atol=1e-9)  # (3)
    assert (s[logp < -h] > 0).all() and (s[logp < -h]).numel() > 5, "every token with ln p < −H raises entropy"


def test_temperature_is_a_common_factor():
    z, tokens, log_pi, h, logp = softmaxes(60, 13, 2.0)
    temperature, eta = 0.7, 1e-6
    leaf = (temperature * z).requires_grad_()  # the logits before the division
    (leaf / temperature).log_softmax(-1).gather(-1, tokens).sum().backward()
    moved = [entropy((leaf.detach() + sign * eta * leaf.grad) / temperature) for sign in (1, -1)]
    slope = (moved[0] - moved[1]).unsqueeze(-1) / (2 * eta)
    torch.testing.assert_close(slope, exact(log_pi, h, logp) / temperature**2, rtol=1e-6, atol=1e-9)


def test_sensitivity_has_no_mean():
    """(5), and the term that (8) drops: not negative, and what (5) needs."""
    _, _, log_pi, h, _ = softmaxes(200, 17, 3.0)
    assert (log_pi.exp() * exact(log_pi, h, log_pi)).sum(-1).abs().max() < 1e-14
    sampled = -log_pi.exp() * (log_pi + h)
    torch.testing.assert_close((log_pi.exp() * sampled).sum(-1, keepdim=True), -mean_term(log_pi, h))
    assert mean_term(log_pi, h).min() > 0


def test_running_sums():
    """(6) and (7), with sums that are carried over the vocabulary in tiles and rescaled where the maximum grows."""
    z, _, log_pi, h, _ = softmaxes(200, 17, 3.0)
    m = z[:, :1]
    e, moved, square, moved_square = (torch.zeros_like(m) for _ in range(4))
    for tile in z.split(5, dim=-1):
        larger = torch.maximum(m, tile.amax(-1, keepdim=True))
        rescale, move = torch.exp(m - larger), m - larger
        moved, moved_square = rescale * (moved + move * e), rescale**2 * (moved_square + move * square)
        e, square, m = rescale * e, rescale**2 * square, larger
        tile = tile - m
        e = e + tile.exp().sum(-1, keepdim=True)
        moved = moved + (tile.exp() * tile).sum(-1, keepdim=True)
        square = square + torch.exp(2 * tile).sum(-1, keepdim=True)
        moved_square = moved_square + (torch.exp(2 * tile) * tile).sum(-1, keepdim=True)
    torch.testing.assert_close(e.log() - moved / e, h, rtol=1e-12, atol=1e-14)  # (6)
    squares = (log_pi.exp() ** 2).sum(-1, keepdim=True)
    torch.testing.assert_close(square / e**2, squares, rtol=1e-12, atol=0)  # (7)
    expected = (log_pi.exp() ** 2 * log_pi).sum(-1, keepdim=True)
    torch.testing.assert_close(moved_square / e**2 - e.log() * squares, expected, rtol=1e-12, atol=1e-15)


def test_signs_of_the_cheap_forms():
    share, rows, logits, deviation, mass = numbers(
        rf"for {NUMBER} % of the tokens sampled from {NUMBER} random softmaxes \({NUMBER} logits each, normal with "
        rf"standard deviation {NUMBER}\), which hold {NUMBER} % of"
    )
    _, _, log_pi, h, logp = softmaxes(int(rows), int(logits), deviation)
    s = exact(log_pi, h, logp)
    sampled = -logp.exp() * (logp + h)
    assert torch.equal(sampled.sign(), paper(h, logp).sign())
    differs = sampled.sign() != s.sign()
    assert 100 * differs.double().mean().item() == pytest.approx(share, abs=2)
    assert 100 * (s.abs() * differs).sum().item() / s.abs().sum().item() == pytest.approx(mass, abs=1.5)


def flows(values):
    return values.clamp(min=0).sum(), -values.clamp(max=0).sum()


def test_balance():
    """(10), (11), (13), (14), on the page's own P and N and on random tokens."""
    increase, decrease, balance, after = numbers(
        rf"With P = {NUMBER} and N = {NUMBER}, λ_balance is {NUMBER} and both flows become {NUMBER}\."
    )
    assert balance == (decrease - increase) / (decrease + increase)
    assert (1 + balance) * increase == after == (1 - balance) * decrease
    generator = torch.Generator().manual_seed(1)
    c, advantages, s = torch.rand(3, 40, generator=generator, dtype=torch.float64) - torch.tensor([[0], [0.4], [0.5]])
    increase, decrease = flows(c * advantages * s)
    balance = (decrease - increase) / (decrease + increase)
    for coefficient in (balance, 0.3, -0.2):
        d = advantages * s
        balanced = torch.where(d > 0, advantages * (1 + coefficient), advantages * (1 - coefficient))
        net = (c * balanced * s).sum().item()
        assert net == pytest.approx(((1 + coefficient) * increase - (1 - coefficient) * decrease).item(), abs=1e-14)
        assert net == pytest.approx(((coefficient - balance) * (increase + decrease)).item(), abs=1e-14)
        assert torch.equal(balanced.sign(), advantages.sign())


def test_target():
    """(12) run to rest gives (15); and the two figures printed beside it."""
    strength, gain, target, balance, drift = 1.0, 4.0, 0.5, 0.1, 0.08
    h = 0.65
    for _ in range(5000):
        coefficient = max(-0.5, min(0.5, strength * balance + gain * (target - h) / target))
        h += 0.01 * (coefficient - balance - drift)  # (14), and a drift that the balance does not see
    assert h == pytest.approx(target * (1 - drift / gain), abs=1e-12)
    gain, offset, excess = numbers(rf"At the default gain of {NUMBER} an offset of {NUMBER} % means r = {NUMBER}\.")
    assert excess == pytest.approx(gain * offset / 100)
    assert [gain] == numbers(rf"strength of the target term; default `{NUMBER}`")
    bound, off = numbers(rf"reaches the default bound of {NUMBER} when H̄ is {NUMBER} % off")
    assert bound == pytest.approx(gain * off / 100)


def test_worked_example():
    (h_printed,) = numbers(rf"\(the expected update\), H = {NUMBER}:")
    p, advantages = [0.8, 0.2], [0.2, -0.8]
    h = -sum(q * math.log(q) for q in p)
    assert h_printed == round(h, 6)
    assert "Two actions, π = (0.8, 0.2), A = (0.2, −0.8)" in PROSE
    dropped = sum(q**2 * (math.log(q) + h) for q in p)
    s_exact = [dropped - q * (math.log(q) + h) for q in p]
    s_paper = [-((1 - q) ** 2) * (math.log(q) + h) for q in p]
    rows = []
    for a, q in enumerate(p):
        row = [a, q, math.log(q) + h, q * (math.log(q) + h), s_exact[a], (1 - q) ** 2, s_paper[a]]
        rows.append([round(value, 6) for value in [*row, advantages[a], q * advantages[a]]])
    assert [[float(cell.replace("−", "-")) for cell in row] for row in table("action")] == rows
    weighted = [round(q * advantage, 6) for q, advantage in zip(p, advantages, strict=True)]
    for name, s in (("exact", s_exact), ("paper", s_paper)):
        total = round(sum(w * value for w, value in zip(weighted, s, strict=True)), 6)
        printed = numbers(
            rf'- "{name}": (?:Σ_a π_a A_a s_a = )?{NUMBER} · \({NUMBER}\) − {NUMBER} · {NUMBER} = \*\*{NUMBER}\*\*'
        )
        assert printed == [weighted[0], round(s[0], 6), 0.16, round(s[1], 6), total]
    first, second, third, fourth, dropped_printed = numbers(
        rf"H\) = {NUMBER} · {NUMBER} − {NUMBER} · {NUMBER} = {NUMBER}, so by \(4\)"
    )
    assert [first, third, dropped_printed] == [0.8, 0.2, round(dropped, 6)]
    assert second == fourth == round(p[0] * (math.log(p[0]) + h), 6)
    s_0 = numbers(rf"s_0 = {NUMBER} − {NUMBER} and s_1 = {NUMBER} \+ {NUMBER}\.")
    assert s_0 == [dropped_printed, second, dropped_printed, second]
    # The same without s: the expected step times the gradient of H
    step = [weighted[a] - p[a] * sum(weighted) for a in (0, 1)]
    gradient = [-q * (math.log(q) + h) for q in p]
    printed = numbers(
        rf"step is \({NUMBER}, {NUMBER}\), by \(2\) the gradient of H is \({NUMBER}, {NUMBER}\), and their product "
        rf"is {NUMBER}\."
    )
    product = sum(x * y for x, y in zip(step, gradient, strict=True))
    assert printed == [round(value, 6) for value in (*step, *gradient, product)]
    printed = numbers(rf'- "sampled": s = \({NUMBER}, {NUMBER}\), and again {NUMBER},')
    assert printed == [
        round(value, 6) for value in (*gradient, sum(w * g for w, g in zip(weighted, gradient, strict=True)))
    ]
    assert all(advantage * s < 0 for advantage, s in zip(advantages, s_exact, strict=True)), "P = 0, so λ_balance = 1"


L, EPSILON_HIGH, SAPO_TEMPERATURE = 9, 0.2, 1.05


def loss_of_a_step(loss_type, logps, masks, phi):
    """The loss that one optimizer step sees, processes averaged; `logps` and `masks` per process and micro-batch."""
    n = sum(mask.sum() for process in masks for mask in process)
    total = 0
    for process_logps, process_masks in zip(logps, masks, strict=True):
        for logp, mask in zip(process_logps, process_masks, strict=True):
            ratio = torch.exp(logp - logp.detach())
            term = {
                "sapo": torch.sigmoid(SAPO_TEMPERATURE * (ratio - 1)) * 4 / SAPO_TEMPERATURE,
                "cispo": ratio.detach().clamp(max=EPSILON_HIGH) * logp,
                "vespo": phi * logp,
            }.get(loss_type, torch.min(ratio, ratio.clamp(0.8, 1.2)))
            summed = (term * mask).sum(-1)
            steps = len(process_masks)
            total = total - {
                "bnpo": summed.sum() / mask.sum() / steps,
                "dr_grpo": summed.sum() / (len(mask) * L) / steps,
                "luspo": summed.mean() / steps,
                "dapo": summed.sum() / (n / len(masks)),
                "cispo": summed.sum() / (n / len(masks)),
                "vespo": summed.sum() / (n / len(masks)),
            }.get(loss_type, (summed / mask.sum(-1)).mean() / steps)
    return total / len(masks)


def test_weights_of_the_loss_types():
    """The expression in the table, evaluated, against −∂loss/∂ln p of each loss written out, at A = 1 and ratio 1."""
    rows = {row[0].strip("`"): row[1].strip("`") for row in table("`loss_type`")}
    assert set(rows) == {"grpo", "sapo", "bnpo", "dr_grpo", "luspo", "dapo", "cispo", "vespo"}
    lengths = torch.tensor([[[1, 4], [2, 2], [3, 1]], [[4, 4], [1, 1], [2, 4]]])  # 2 processes, 3 micro-batches of 2
    masks = [[(torch.arange(4) < n.unsqueeze(-1)).double() for n in process] for process in lengths]
    phi = 0.6
    for loss_type, expression in rows.items():
        logps = [[(-torch.ones(2, 4).double()).requires_grad_() for _ in process] for process in masks]
        loss_of_a_step(loss_type, logps, masks, phi).backward()
        for i, process in enumerate(masks):
            for j, mask in enumerate(process):
                for k, row in enumerate(mask):
                    symbols = {"n_i": row.sum().item(), "n_m": mask.sum().item(), "n": lengths.sum().item()}
                    symbols |= {"B": 2, "G": 3, "S": 3, "R": 2, "L": L, "ε_high": EPSILON_HIGH, "φ": phi, "min": min}
                    c = eval(expression.replace("·", "*"), {"__builtins__": {}}, symbols)
                    torch.testing.assert_close(-logps[i][j].grad[k], c * row, rtol=1e-12, atol=0)


def test_figures_of_the_recorded_runs():
    """What the page takes from docs/results/countdown, against the table there."""
    recorded = (ROOT / "docs" / "results" / "countdown" / "README.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in recorded if line[:1] == "|"}
    grpo, opefo = rows["GRPO"], rows["OPEFO with a target of 0.7"]
    start, end = numbers(rf"200 steps: entropy {NUMBER} → {NUMBER} with GRPO")
    assert [start, end] == [float(cell.split(" ± ")[0]) for cell in grpo[1:3]]
    assert f"took {opefo[-1]} s with OPEFO and {grpo[-1]} s with GRPO" in PROSE


def test_figures_of_the_study():
    """What the page takes from docs/results/study, against the differences to strict GRPO there."""
    study = ROOT / "docs" / "results" / "study" / "countdown" / "table.md"
    rows = [
        line.strip("| ").split(" | ") for line in study.read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    _, heads = (row for row in rows if row[0] == "arm")
    _, exact = (dict(zip(heads, row, strict=False)) for row in rows if row[0] == "OPEFO, exact")
    columns = ("pass@1", "pass@16", "temperature 0.3: pass@1", "temperature 0.3: pass@16")
    hot_given, hot_won, cold_given, cold_won = (float(exact[column].split(" ± ")[0]) for column in columns)
    assert numbers(
        rf"trades {NUMBER} of pass@1 for {NUMBER} of pass@16 on Countdown at temperature 1, {NUMBER} for {NUMBER} at "
        r"temperature 0\.3"
    ) == [-hot_given, hot_won, -cold_given, cold_won]


def test_the_knobs_are_those_of_the_config():
    from dataclasses import fields

    from trl import GRPOConfig

    from opefo_trl import OPEFOConfig

    inherited = {field.name for field in fields(GRPOConfig)}
    added = {field.name: field.default for field in fields(OPEFOConfig) if field.name not in inherited}
    rows = table("symbol")
    assert all(len(row) == 3 for row in rows)
    documented = {name.strip("`"): re.search(r"default `([^`]*)`", meaning)[1] for _, name, meaning in rows}
    assert {name: ast.literal_eval(value) for name, value in documented.items()} == added
    assert [name.strip("`") for _, name, _ in rows] == list(added), "in the order of the configuration"
