"""Solvers and schedules of flow matching, against flows with a known solution."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.objectives import Diffusion, FlowMatching, Predict, integrate, sigma_schedule
from unisono.objectives.solvers import SOLVERS

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "ab2": 2}
EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "ab2": 1}
MEAN, STD = 1.5, 0.4
QUANTILES = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 9, 1)


def gaussian_velocity(x: Tensor, sigma: float) -> Tensor:
    """``E[noise - x0 | x]`` for data ``N(MEAN, STD^2)``: both are jointly normal with ``x``."""
    variance = (1 - sigma) ** 2 * STD**2 + sigma**2
    gain = (sigma - (1 - sigma) * STD**2) / variance
    return -MEAN + gain * (x - (1 - sigma) * MEAN)


def gaussian_point(quantile: Tensor, sigma: float) -> Tensor:
    """Where the flow is at ``sigma``: it keeps each item's quantile."""
    return (1 - sigma) * MEAN + ((1 - sigma) ** 2 * STD**2 + sigma**2) ** 0.5 * quantile


def growth(x: Tensor, sigma: float) -> Tensor:
    """``d log x / d sigma = 3 sigma^2``, so that ``x`` at 0 is that at 1 over e."""
    return 3 * sigma**2 * x


def orders(velocity: Predict, end: Tensor, solver: str, sway: float, shift: float) -> list[float]:
    """Order of convergence from doubling the steps, twice."""
    errors = [
        float((integrate(velocity, QUANTILES, sigma_schedule(n, sway, shift), solver) - end).abs().max())
        for n in (128, 256, 512)
    ]
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize("bends", [(0.0, 1.0), (-0.5, 1.0), (0.0, 2.0)], ids=["even", "sway", "shift"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_converge_with_their_order(solver: str, bends: tuple[float, float]) -> None:
    """Also where steps are uneven, which is what a multistep solver has to allow for."""
    found = orders(growth, QUANTILES / math.e, solver, *bends)
    assert found == pytest.approx([ORDERS[solver]] * 2, abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_converge_to_the_flow_of_a_gaussian(solver: str) -> None:
    """Its paths are hyperbolas, for which the midpoint rule happens to gain an order."""
    expected = 3 if solver == "midpoint" else ORDERS[solver]
    found = orders(gaussian_velocity, MEAN + STD * QUANTILES, solver, 0.0, 1.0)
    assert found == pytest.approx([expected] * 2, abs=0.2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_whole_path_is_that_of_the_flow(solver: str) -> None:
    """Not only its end: stopping at any noise level gives the data noised as much."""
    sigmas = sigma_schedule(256, -0.5)
    for stop in (64, 128, 200):
        reached = integrate(gaussian_velocity, QUANTILES, sigmas[: stop + 1], solver)
        assert torch.allclose(
            reached, gaussian_point(QUANTILES, sigmas[stop]), atol=0.01 if solver == "euler" else 1e-4
        )


@pytest.mark.parametrize(("solver", "degree"), [("euler", 0), ("midpoint", 1), ("heun", 1), ("rk4", 3), ("ab2", 0)])
def test_polynomials_of_sigma_are_integrated_exactly(solver: str, degree: int) -> None:
    """In one step or six; of the degree one below the order, but for the first step of the multistep solver."""
    for power in range(degree + 1):
        velocity = lambda x, sigma, power=power: torch.full_like(x, (power + 1) * sigma**power)  # noqa: E731
        for num_steps in (1, 6):
            made = integrate(velocity, QUANTILES, sigma_schedule(num_steps, -0.5), solver)
            assert torch.allclose(made, QUANTILES - 1, atol=1e-12), (power, num_steps)


def test_the_multistep_solver_follows_a_line_after_its_first_step() -> None:
    sigmas = [1.0, 0.9, 0.5, 0.45, 0.0]  # 0.1 and 0.4, 0.05 and 0.45: as uneven as can be
    made = integrate(lambda x, sigma: torch.full_like(x, 2 * sigma), torch.zeros(1, 1, 1).double(), sigmas, "ab2")
    first, rest = -0.1 * 2.0, -(0.9**2)
    assert float(made) == pytest.approx(first + rest, abs=1e-12)


def test_samples_have_the_mean_and_deviation_of_the_data() -> None:
    noise = torch.randn(1, 20_000, 1, generator=torch.Generator().manual_seed(0))
    for solver in SOLVERS:
        made = integrate(gaussian_velocity, noise, sigma_schedule(48, -0.5), solver)
        assert float(made.mean()) == pytest.approx(MEAN, abs=0.01)
        assert float(made.std()) == pytest.approx(STD, abs=0.02 if solver == "euler" else 0.01)


def test_for_the_same_evaluations_the_multistep_solver_is_nearer_than_euler() -> None:
    """Eight well separated clips in twelve dimensions: the best velocity is known, and far from linear."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    noise = torch.randn(40, 1, 12, generator=generator, dtype=torch.float64)

    def velocity(x: Tensor, sigma: float) -> Tensor:
        variance = (1 - sigma) ** 2 * 0.1**2 + sigma**2
        away = x - (1 - sigma) * clips  # (40, 8, 12)
        share = torch.softmax(-(away**2).sum(dim=2) / (2 * variance), dim=1)
        gain = (sigma - (1 - sigma) * 0.1**2) / variance
        return (share[..., None] * (gain * away - clips)).sum(dim=1, keepdim=True)

    exact = integrate(velocity, noise, sigma_schedule(200), "rk4")
    for num_steps in (12, 24):
        errors = {
            name: float((integrate(velocity, noise, sigma_schedule(num_steps, -0.5), name) - exact).abs().mean())
            for name in ("euler", "ab2")
        }
        assert errors["ab2"] < 0.75 * errors["euler"], (num_steps, errors)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_number_of_evaluations_is_that_of_the_table_and_each_lies_in_its_step(solver: str) -> None:
    assert f"{solver:<10}{ORDERS[solver]:<7}{EVALUATIONS[solver]}" in str(integrate.__doc__)
    sigmas, levels = sigma_schedule(7, -0.5), FlowMatching().noise_levels(7, solver)
    per_step = EVALUATIONS[solver]
    assert len(levels) == 7 * per_step
    for index, (sigma, after) in enumerate(pairwise(sigmas)):
        own = levels[index * per_step : (index + 1) * per_step]
        assert own[0] == sigma and all(after <= level <= sigma for level in own)
    assert max(levels) == 1.0 and min(levels) >= 0.0


def test_one_euler_step_from_the_first_noise_level() -> None:
    asked = []

    def velocity(x: Tensor, sigma: float) -> Tensor:
        asked.append(sigma)
        return torch.full_like(x, 3.0)

    x = integrate(velocity, torch.zeros(2, 1, 1), [1.0, 0.25, 0.0])
    assert asked == [1.0, 0.25]
    assert x.flatten().tolist() == [-3.0, -3.0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_state_keeps_its_digits_whatever_the_network_is_computed_in(solver: str) -> None:
    def rough(x: Tensor, sigma: float) -> Tensor:
        return gaussian_velocity(x, sigma).bfloat16()

    sigmas, noise = sigma_schedule(100), QUANTILES.float()
    made = integrate(rough, noise, sigmas, solver)
    assert made.dtype == torch.float32
    # The error is that of the velocities' rounding, which averages out, and not that of a state of three digits.
    assert (made - integrate(gaussian_velocity, noise, sigmas, solver)).abs().max() < 2e-3
    assert integrate(rough, noise.bfloat16(), sigmas, solver).dtype == torch.float32
    assert integrate(rough, QUANTILES, sigmas, solver).dtype == torch.float64


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_step_reads_a_value_back(solver: str) -> None:
    """Each value read stalls a GPU. The meta device has no values, so that reading one is an error."""
    noise = torch.empty(2, 5, 3, device="meta")
    assert FlowMatching().generate(gaussian_velocity, noise, 4, solver, shift=3.0).shape == noise.shape


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_item_does_not_depend_on_its_neighbours(solver: str) -> None:
    noise = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    together = FlowMatching().generate(gaussian_velocity, noise, 5, solver)
    for row in range(3):
        assert torch.equal(
            FlowMatching().generate(gaussian_velocity, noise[row : row + 1], 5, solver)[0], together[row]
        )


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("solver", Diffusion.solvers)
def test_those_of_diffusion_ask_once_a_step_keep_their_digits_and_read_nothing_back(solver: str, prediction) -> None:
    objective, noise = Diffusion(prediction), QUANTILES.float()
    assert objective.noise_levels(6, solver) == [timestep / 999 for timestep in objective.timesteps(6)]
    made = objective.generate(lambda x, sigma: (0.3 * x).bfloat16(), noise, 6, solver)
    exact = objective.generate(lambda x, sigma: 0.3 * x, noise, 6, solver)
    # Rounding to bfloat16 is a relative error of 2^-9 at most; to keep the state in it would add one at each step.
    assert made.dtype == torch.float32 and (made - exact).abs().max() <= 2**-8 * exact.abs().max()
    nowhere = torch.empty(2, 5, 3, device="meta")
    assert objective.generate(lambda x, sigma: sigma * x, nowhere, 6, solver).shape == nowhere.shape


def test_an_unknown_solver_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"'rk45'.*euler, midpoint, heun, rk4, ab2; did you mean rk4"):
        integrate(gaussian_velocity, torch.zeros(1, 1, 1), sigma_schedule(2), "rk45")
    with pytest.raises(UserError, match=r"'ddim'.*euler, midpoint"):
        FlowMatching().generate(gaussian_velocity, torch.zeros(1, 1, 1), 2, "ddim")


# -- schedules ------------------------------------------------------------------------------------------------------


def test_generation_is_the_integral_along_the_schedule_with_its_defaults() -> None:
    def solved(solver: str, *bends: float) -> Tensor:
        return integrate(gaussian_velocity, QUANTILES, sigma_schedule(6, *bends), solver)

    generate = partial(FlowMatching().generate, gaussian_velocity, QUANTILES, 6)
    assert torch.equal(generate(), solved("euler", -0.5))
    assert torch.equal(generate(sway=0.0), solved("euler", 0.0))
    assert torch.equal(generate("midpoint", 0.3), solved("midpoint", 0.3))
    # A given shift takes the place of the default sway; both given are both applied.
    assert torch.equal(generate(shift=3.0), solved("euler", 0.0, 3.0))
    assert torch.equal(generate("ab2", -0.5, 3.0), solved("ab2", -0.5, 3.0))


@pytest.mark.parametrize("given", [(None, None), (0.3, None), (None, 2.0), (-1.0, 0.5)])
def test_settled_settings_are_what_is_used_and_stay(given: tuple[float | None, float | None]) -> None:
    flow = FlowMatching()
    settled = flow.settle(6, None, *given)
    assert flow.settle(6, settled.solver, settled.sway, settled.shift) == settled
    assert flow.noise_levels(6, None, *given) == flow.noise_levels(6, settled.solver, settled.sway, settled.shift)


@pytest.mark.parametrize("shift", [0.01, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("sway", [-1.0, -0.5, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 24, 1000])
def test_schedules_fall_from_one_to_zero(num_steps: int, sway: float, shift: float) -> None:
    sigmas = sigma_schedule(num_steps, sway, shift)
    assert len(sigmas) == num_steps + 1 and sigmas[0] == 1 and sigmas[-1] == 0
    assert all(after < before for before, after in pairwise(sigmas))


def test_sway_and_shift_follow_their_formulas_and_favour_the_noise() -> None:
    t = 0.25
    swayed = 1 - (t - 0.5 * (math.cos(math.pi / 2 * t) - 1 + t))
    assert sigma_schedule(4, -0.5)[1] == pytest.approx(swayed)
    assert sigma_schedule(4, 0.0, 3.0)[1] == pytest.approx(3 * 0.75 / (1 + 2 * 0.75))
    assert sigma_schedule(4, -0.5, 3.0)[1] == pytest.approx(3 * swayed / (1 + 2 * swayed))
    assert sigma_schedule(8) == pytest.approx([1 - i / 8 for i in range(9)])

    def near_noise(*bends: float) -> int:
        return sum(sigma > 0.5 for sigma in sigma_schedule(24, *bends))

    assert near_noise(-0.5, 3.0) > near_noise(0.0, 3.0) > near_noise(-0.5) > near_noise() > near_noise(0.0, 0.3)


def test_a_shift_keeps_the_ratio_of_noise_to_data_in_proportion() -> None:
    """Equation 23 of Esser et al. comes from this: ``sigma / (1 - sigma)`` is multiplied everywhere alike."""
    for plain, shifted in zip(sigma_schedule(9)[1:-1], sigma_schedule(9, 0.0, 2.5)[1:-1], strict=True):
        assert shifted / (1 - shifted) == pytest.approx(2.5 * plain / (1 - plain))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "num_steps is 0"),
        ((-1,), "num_steps is -1"),
        ((4, 1.1), "sway is 1.1.*-1 and 1"),
        ((4, float("nan")), "sway is nan"),
        ((4, 0.0, 0.0), "shift is 0.0.*0.01 and 100"),
        ((4, 0.0, -3.0), "shift is -3"),
        ((4, 0.0, float("nan")), "shift is nan"),
        ((4, 0.0, float("inf")), "shift is inf"),
    ],
)
def test_impossible_schedules_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sigma_schedule(*arguments)
    num_steps, *bends = arguments
    with pytest.raises(UserError, match=message):
        FlowMatching().settle(num_steps, None, *bends)
