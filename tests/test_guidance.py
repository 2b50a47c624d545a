"""Guidance: its formulas and what it costs, with predictions that are known. See also test_guided_model.py."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from unisono.errors import UserError
from unisono.models.generation import GenerationSettings
from unisono.objectives import Branch, Diffusion, FlowMatching, Guidance, guided

NOTHING, CONTENT, EVERYTHING = Branch.NOTHING, Branch.CONTENT, Branch.EVERYTHING
GENERATOR = torch.Generator().manual_seed(0)
KNOWN: dict[Branch, Tensor] = {branch: torch.randn(3, 7, 4, generator=GENERATOR) for branch in Branch}
X = torch.randn(3, 7, 4, generator=GENERATOR)


class Recorder:
    """A network whose prediction for each branch is known; it depends on ``x`` and sigma too."""

    def __init__(self) -> None:
        self.asked: list[tuple[Branch, ...]] = []

    def __call__(self, branches: tuple[Branch, ...], x: Tensor, sigma: float) -> Tensor:
        self.asked.append(branches)
        parts = x.chunk(len(branches))
        return torch.cat([self.known(branch, part, sigma) for branch, part in zip(branches, parts, strict=True)])

    @staticmethod
    def known(branch: Branch, x: Tensor, sigma: float) -> Tensor:
        return KNOWN[branch][: len(x)] * (1 + sigma) + 0.5 * x


def told(branch: Branch, sigma: float = 0.5) -> Tensor:
    return Recorder.known(branch, X, sigma)


# -- scales ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 2.0, 3.5])
def test_one_scale_follows_its_formula_in_one_call(scale: float) -> None:
    network = Recorder()
    made = guided(network, Guidance(scale))(X, 0.5)
    assert torch.allclose(made, told(NOTHING) + scale * (told(EVERYTHING) - told(NOTHING)))
    assert network.asked == [(NOTHING, EVERYTHING)]


@pytest.mark.parametrize(("content", "instruction"), [(2.0, 3.0), (3.0, 0.5), (0.0, 2.0), (4.0, 1.0)])
def test_two_scales_follow_their_formula_in_one_call(content: float, instruction: float) -> None:
    network = Recorder()
    made = guided(network, Guidance(content, instruction))(X, 0.5)
    expected = (
        told(NOTHING) + content * (told(CONTENT) - told(NOTHING)) + instruction * (told(EVERYTHING) - told(CONTENT))
    )
    assert torch.allclose(made, expected, atol=1e-6)
    assert network.asked == [(NOTHING, CONTENT, EVERYTHING)]


@pytest.mark.parametrize(
    ("guidance", "branches"),
    [
        (Guidance(), (EVERYTHING,)),
        (Guidance(1.0, 1.0), (EVERYTHING,)),
        (Guidance(2.0, 2.0), (NOTHING, EVERYTHING)),
        (Guidance(1.0, 3.0), (CONTENT, EVERYTHING)),
        (Guidance(2.0, 0.0), (NOTHING, CONTENT)),
        (Guidance(1.0, 0.0), (CONTENT,)),
        (Guidance(0.0), (NOTHING,)),
        (Guidance(0.0, 0.0), (NOTHING,)),
        (Guidance(0.0, 1.0), (NOTHING, CONTENT, EVERYTHING)),
    ],
)
def test_no_branch_is_computed_that_does_not_count(guidance: Guidance, branches: tuple[Branch, ...]) -> None:
    network = Recorder()
    made = guided(network, guidance)(X, 0.5)
    assert network.asked == [branches] and guidance.branches(0.5) == branches
    instruction = guidance.scale if guidance.instruction_scale is None else guidance.instruction_scale
    expected = told(NOTHING) + guidance.scale * (told(CONTENT) - told(NOTHING))
    expected = expected + instruction * (told(EVERYTHING) - told(CONTENT))
    assert torch.allclose(made, expected, atol=1e-6)


def test_guided_gaussians_are_the_gaussian_of_their_combination() -> None:
    """Branches that know the means of their data: the guided flow ends at the guided mean, whatever the solver."""
    means = {NOTHING: 0.0, CONTENT: 1.0, EVERYTHING: 1.5}

    def network(branches: tuple[Branch, ...], x: Tensor, sigma: float) -> Tensor:
        variance = (1 - sigma) ** 2 * 0.4**2 + sigma**2
        gain = (sigma - (1 - sigma) * 0.4**2) / variance
        parts = zip(branches, x.chunk(len(branches)), strict=True)
        return torch.cat([-means[b] + gain * (part - (1 - sigma) * means[b]) for b, part in parts])

    quantiles = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 9, 1)
    for content, instruction in ((1.0, None), (2.0, None), (2.0, 3.0), (1.0, 0.0)):
        predict = guided(network, Guidance(content, instruction))
        made = FlowMatching().generate(predict, quantiles, 64, "rk4")
        mean = content * 1.0 + (content if instruction is None else instruction) * 0.5
        assert torch.allclose(made, mean + 0.4 * quantiles, atol=1e-6)


def test_branches_in_bfloat16_are_combined_in_the_precision_of_the_state() -> None:
    """Guidance multiplies the difference of like numbers: half of their digits are gone before it does."""

    def rough(branches: tuple[Branch, ...], x: Tensor, sigma: float) -> Tensor:
        return Recorder()(branches, x, sigma).bfloat16()

    made = guided(rough, Guidance(5.0))(X, 0.5)
    nothing, everything = told(NOTHING).bfloat16().float(), told(EVERYTHING).bfloat16().float()
    assert made.dtype == torch.float32
    assert torch.equal(made, nothing + 5.0 * (everything - nothing))


# -- rescaling ------------------------------------------------------------------------------------------------------

LENGTHS = [7, 3, 1]
MASK = torch.arange(7)[None] < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("guidance", [Guidance(4.0), Guidance(4.0, 2.0)])
@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_rescaling_follows_its_formula_over_valid_frames(guidance: Guidance, rescale: float) -> None:
    """Equations 15 and 16 of Lin et al., an item at a time."""
    plain = guided(Recorder(), guidance, MASK)(X, 0.5)
    made = guided(Recorder(), dataclasses.replace(guidance, rescale=rescale), MASK)(X, 0.5)
    for row, length in enumerate(LENGTHS):
        wanted = told(EVERYTHING)[row, :length].std(correction=0)
        rescaled = plain[row] * (wanted / plain[row, :length].std(correction=0))
        assert torch.allclose(made[row], rescale * rescaled + (1 - rescale) * plain[row], atol=1e-5)
    if rescale == 1.0:
        deviations = [float(made[row, :length].std(correction=0)) for row, length in enumerate(LENGTHS)]
        expected = [float(told(EVERYTHING)[row, :length].std(correction=0)) for row, length in enumerate(LENGTHS)]
        assert deviations == pytest.approx(expected, rel=1e-5)


def test_what_lies_in_the_padding_does_not_change_the_rescaling() -> None:
    predict = guided(Recorder(), Guidance(4.0, rescale=1.0), MASK)
    valid = MASK[..., None]
    assert torch.allclose(predict(X, 0.5) * valid, predict(torch.where(valid, X, 50.0), 0.5) * valid, atol=1e-5)


def test_rescaling_does_nothing_without_guidance_and_survives_a_prediction_of_one_value() -> None:
    assert torch.equal(guided(Recorder(), Guidance(1.0, rescale=1.0), MASK)(X, 0.5), told(EVERYTHING))
    zero = guided(lambda branches, x, sigma: torch.zeros_like(x), Guidance(3.0, rescale=1.0), MASK)
    assert torch.equal(zero(X, 0.5), torch.zeros_like(X))


# -- interval -------------------------------------------------------------------------------------------------------


def test_outside_the_interval_there_is_one_branch_and_no_guidance() -> None:
    guidance = Guidance(3.0, 2.0, 0.5, min_sigma=0.2, max_sigma=0.7)
    for sigma in (0.0, 0.19, 0.71, 1.0):
        network = Recorder()
        assert torch.equal(guided(network, guidance, MASK)(X, sigma), told(EVERYTHING, sigma))
        assert network.asked == [(EVERYTHING,)]
    everywhere = dataclasses.replace(guidance, min_sigma=0.0, max_sigma=1.0)
    for sigma in (0.2, 0.5, 0.7):
        assert torch.equal(guided(Recorder(), guidance, MASK)(X, sigma), guided(Recorder(), everywhere, MASK)(X, sigma))


@pytest.mark.parametrize("objective", [FlowMatching(), Diffusion()], ids=["flow", "diffusion"])
def test_the_work_of_a_generation_is_what_the_noise_levels_foretell(objective: FlowMatching | Diffusion) -> None:
    guidance, network = Guidance(3.0, min_sigma=0.3, max_sigma=0.8), Recorder()
    for solver in objective.solvers:
        network.asked.clear()
        objective.generate(guided(network, guidance), X, 10, solver)
        assert network.asked == [guidance.branches(level) for level in objective.noise_levels(10, solver)]
        assert set(network.asked) == {(EVERYTHING,), (NOTHING, EVERYTHING)}


@pytest.mark.parametrize("objective", [FlowMatching(), Diffusion()], ids=["flow", "diffusion"])
def test_a_guided_generation_reads_no_value_back(objective: FlowMatching | Diffusion) -> None:
    """Each value read stalls a GPU. The meta device has no values, so that reading one is an error."""
    guidance = Guidance(3.0, 2.0, 0.7, 0.1, 0.9)
    noise, mask = torch.empty(3, 7, 4, device="meta"), torch.empty(3, 7, dtype=torch.bool, device="meta")
    predict = guided(lambda branches, x, sigma: sigma * x, guidance, mask)
    assert objective.generate(predict, noise, 6).shape == noise.shape


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": -1.0}, r"^guidance_scale is -1.0.*from 0 on"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan"),
        ({"guidance_scale": math.inf}, "guidance_scale is inf"),
        ({"instruction_guidance_scale": -0.5}, "instruction_guidance_scale is -0.5"),
        ({"guidance_rescale": 1.5}, "guidance_rescale is 1.5.*between 0"),
        ({"guidance_rescale": math.nan}, "guidance_rescale is nan"),
        ({"guidance_min_sigma": 0.8, "guidance_max_sigma": 0.2}, r"\(0.8\).*\(0.2\) must rise.*guide everywhere"),
        ({"guidance_min_sigma": -0.1}, r"guidance_min_sigma \(-0.1\)"),
        ({"guidance_max_sigma": 1.1}, r"guidance_max_sigma \(1.1\)"),
        ({"guidance_max_sigma": math.nan}, r"guidance_max_sigma \(nan\)"),
    ],
)
def test_impossible_settings_are_refused_with_their_name(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GenerationSettings(**settings)  # type: ignore[arg-type]
