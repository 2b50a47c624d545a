"""The mathematics of flow matching: path, noise levels, solvers against a flow with a known solution, guidance."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.objectives import FlowMatching, Predict, guided, integrate, sigma_schedule
from unisono.objectives.noise import derive_seed, item_noise

CPU = torch.device("cpu")


def test_path_and_target_computed_by_hand() -> None:
    x0, noise = torch.tensor([[[2.0]], [[2.0]], [[2.0]]]), torch.tensor([[[-4.0]], [[-4.0]], [[-4.0]]])
    sigma = torch.tensor([0.0, 0.25, 1.0])
    path = FlowMatching().interpolate(x0, noise, sigma)
    assert path.flatten().tolist() == [2.0, 0.5, -4.0]
    assert FlowMatching().target(x0, noise, sigma).flatten().tolist() == [-6.0, -6.0, -6.0]


def test_the_target_is_the_derivative_of_the_path() -> None:
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    flow, sigma = FlowMatching(), torch.rand(3, dtype=torch.float64)
    numeric = (flow.interpolate(x0, noise, sigma + 1e-6) - flow.interpolate(x0, noise, sigma - 1e-6)) / 2e-6
    assert torch.allclose(numeric, flow.target(x0, noise, sigma), atol=1e-8)


def logit_normal_moments(mean: float, std: float) -> tuple[float, float]:
    """Mean and variance by quadrature over the normal."""
    normal = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    weight = torch.exp(-(normal**2) / 2)
    weight /= weight.sum()
    sigma = torch.sigmoid(mean + std * normal)
    first = (weight * sigma).sum()
    return float(first), float((weight * (sigma - first) ** 2).sum())


@pytest.mark.parametrize("batch_size", [1, 3, 4096])
@pytest.mark.parametrize(
    ("flow", "mean", "variance"),
    [
        (FlowMatching("uniform"), 0.5, 1 / 12),
        (FlowMatching(), *logit_normal_moments(0.0, 1.0)),
        (FlowMatching("logit_normal", -0.7, 1.6), *logit_normal_moments(-0.7, 1.6)),
    ],
)
def test_noise_levels_have_their_distribution(flow, mean, variance, batch_size) -> None:
    """Also a batch of one: stratifying must not change the distribution."""
    torch.manual_seed(0)
    drawn = torch.cat([flow.sample_sigma(batch_size, CPU) for _ in range(max(3, 6000 // batch_size))]).double()
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.012)
    assert float(drawn.var()) == pytest.approx(variance, abs=0.004)


def test_noise_levels_of_a_batch_are_spread_and_not_in_order() -> None:
    torch.manual_seed(0)
    sigma = FlowMatching("uniform").sample_sigma(64, CPU)
    assert sorted((sigma * 64).int().tolist()) == list(range(64))  # one per stratum
    assert sigma.tolist() != sorted(sigma.tolist())


@pytest.mark.parametrize("settings", [{"sigma_sampling": "cosine"}, {"logit_std": 0.0}, {"logit_std": float("nan")}])
def test_impossible_distributions_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        FlowMatching(**settings)


# -- solvers --------------------------------------------------------------------------------------------------------

MEAN, STD = 1.5, 0.4


def gaussian_velocity(x: Tensor, sigma: Tensor) -> Tensor:
    """``E[noise - x0 | x]`` for data ``N(MEAN, STD^2)``: both are jointly normal with ``x``."""
    s = sigma[:, None, None]
    variance = (1 - s) ** 2 * STD**2 + s**2
    gain = (s - (1 - s) * STD**2) / variance
    return -MEAN + gain * (x - (1 - s) * MEAN)


def orders(velocity: Predict, start: Tensor, end: Tensor, solver: str) -> list[float]:
    """Order of convergence from halving the step, thrice."""
    errors = []
    for num_steps in (32, 64, 128, 256):
        sigmas = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        errors.append(float((integrate(velocity, start, sigmas, solver) - end).abs().max()))
    return [math.log2(a / b) for a, b in pairwise(errors)]


QUANTILES = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 9, 1)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2)])
def test_solvers_converge_with_their_order(solver: str, order: int) -> None:
    def growth(x: Tensor, sigma: Tensor) -> Tensor:  # d log x / d sigma = 3 sigma^2
        return 3 * sigma[:, None, None] ** 2 * x

    assert orders(growth, QUANTILES, QUANTILES / math.e, solver) == pytest.approx([order] * 3, abs=0.1)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 3)])
def test_solvers_converge_to_the_flow_of_a_gaussian(solver: str, order: int) -> None:
    """It keeps each item's quantile: noise N(0, 1) becomes N(MEAN, STD^2).

    Its paths are hyperbolas, for which the midpoint rule happens to gain an order.
    """
    end = MEAN + STD * QUANTILES
    assert orders(gaussian_velocity, QUANTILES, end, solver) == pytest.approx([order] * 3, abs=0.15)


def test_samples_have_the_mean_and_deviation_of_the_data() -> None:
    noise = torch.randn(1, 20_000, 1, generator=torch.Generator().manual_seed(0))
    made = integrate(gaussian_velocity, noise, sigma_schedule(32, -0.5), "midpoint")
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(made.std()) == pytest.approx(STD, abs=0.01)


def test_one_euler_step_from_the_first_noise_level() -> None:
    asked = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(sigma.tolist())
        return torch.full_like(x, 3.0)

    x = integrate(velocity, torch.zeros(2, 1, 1), torch.tensor([1.0, 0.25, 0.0]))
    assert asked == [[1.0, 1.0], [0.25, 0.25]]
    assert x.flatten().tolist() == [-3.0, -3.0]


def test_an_unknown_solver_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"'rk4'.*euler, midpoint"):
        integrate(gaussian_velocity, torch.zeros(1, 1, 1), sigma_schedule(2), "rk4")
    with pytest.raises(UserError, match=r"'ddim'.*euler, midpoint"):
        FlowMatching().generate(gaussian_velocity, torch.zeros(1, 1, 1), 2, "ddim")


def test_generation_is_the_integral_along_the_schedule_with_its_defaults() -> None:
    def solved(solver: str, sway: float) -> Tensor:
        return integrate(gaussian_velocity, QUANTILES.float(), sigma_schedule(6, sway), solver)

    generate = partial(FlowMatching().generate, gaussian_velocity, QUANTILES.float(), 6)
    assert torch.equal(generate(), solved("euler", -0.5))
    assert torch.equal(generate(sway=0.0), solved("euler", 0.0))
    assert torch.equal(generate("midpoint", 0.3), solved("midpoint", 0.3))


@pytest.mark.parametrize("sway", [-1.0, -0.5, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 24, 1000])
def test_schedules_fall_from_one_to_zero(num_steps: int, sway: float) -> None:
    sigmas = sigma_schedule(num_steps, sway)
    assert sigmas.shape == (num_steps + 1,) and sigmas[0] == 1 and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_sway_follows_its_formula_and_favours_the_noise_when_negative() -> None:
    t = 0.25
    expected = 1 - (t - 0.5 * (math.cos(math.pi / 2 * t) - 1 + t))
    assert float(sigma_schedule(4, -0.5)[1]) == pytest.approx(expected, abs=1e-6)
    assert sigma_schedule(8).tolist() == pytest.approx([1 - i / 8 for i in range(9)])
    assert (sigma_schedule(24, -0.5) > 0.5).sum() > (sigma_schedule(24) > 0.5).sum()


@pytest.mark.parametrize(("num_steps", "sway"), [(0, 0.0), (-1, 0.0), (4, 1.1), (4, float("nan"))])
def test_impossible_schedules_are_refused(num_steps: int, sway: float) -> None:
    with pytest.raises(ValueError, match=str(sway) if num_steps == 4 else str(num_steps)):
        sigma_schedule(num_steps, sway)


# -- guidance and noise ---------------------------------------------------------------------------------------------


def test_guidance_follows_its_formula_in_one_call() -> None:
    calls = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(x.shape[0])
        conditional, unconditional = x.chunk(2)
        return torch.cat([conditional * 0 + 5.0, unconditional + sigma.chunk(2)[1][:, None, None]])

    x, sigma = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([0.5, 0.25])
    unconditional = torch.tensor([1.5, 2.25])
    for scale in (0.0, 1.0, 2.0, 3.5):
        expected = unconditional + scale * (5.0 - unconditional)
        assert torch.equal(guided(velocity, scale)(x, sigma).flatten(), expected)
    assert calls == [4] * 4


def test_noise_of_an_item_does_not_depend_on_its_neighbours() -> None:
    seeds, lengths = [derive_seed(0, name) for name in "abc"], [5, 9, 7]
    together = item_noise(seeds, lengths, 12, 4)
    assert together.shape == (3, 12, 4)
    for row, (seed, length) in enumerate(zip(seeds, lengths, strict=True)):
        assert torch.equal(together[row, :length], item_noise([seed], [length], length, 4)[0])
        assert not together[row, length:].any()
    reversed_batch = item_noise(seeds[::-1], lengths[::-1], 20, 4)
    assert torch.equal(reversed_batch.flip(0)[:, :12], together)
    assert not torch.equal(together[0, :5], together[1, :5])


def test_noise_neither_uses_nor_moves_the_global_generator() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = item_noise([7], [1000], 1000, 8)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first, item_noise([7], [1000], 1000, 8))
    assert float(first.mean()) == pytest.approx(0, abs=0.05) and float(first.std()) == pytest.approx(1, abs=0.05)


def test_seeds_are_the_same_on_every_machine_and_keep_parts_apart() -> None:
    assert derive_seed(0, "a") == 8_517_966_169_931_683_447
    seeds = [
        derive_seed(*parts) for parts in ((0, "a"), (0, "b"), (1, "a"), (0, 1, "a"), ("0", "1a"), (1, 11), (11, 1))
    ]
    assert len(set(seeds)) == len(seeds)
    torch.Generator().manual_seed(max(seeds))  # fits
