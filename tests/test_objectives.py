"""The mathematics of flow matching: path, noise levels, pairing of noise with data; and noise that belongs to an item.

Solvers are in test_solvers.py, guidance in test_guidance.py, diffusion in test_diffusion.py.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch

from conftest import TASKS
from toy import toy_collator, toy_dataset, toy_model
from unisono.objectives import FlowMatching
from unisono.objectives.noise import derive_seed, item_noise
from unisono.training.losses import masked_item_mean
from unisono.types import length_mask

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


# -- optimal transport ----------------------------------------------------------------------------------------------


def batch_of_lengths(lengths: list[int], channels: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Data (zero at padding), noise and mask."""
    x0, noise = torch.randn(2, len(lengths), max(lengths), channels, generator=torch.Generator().manual_seed(seed))
    mask = length_mask(torch.tensor(lengths), max(lengths))
    return x0 * mask[..., None], noise, mask


def transport_cost(x0: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor) -> float:
    """Mean square of the targets, as the loss weighs it: over an item's valid frames, then over items."""
    target = FlowMatching().target(x0, noise, torch.zeros(len(x0)))
    return float(masked_item_mean(target**2, mask).mean())


@pytest.mark.parametrize("lengths", [[3, 3, 3, 3, 3], [6, 2, 5, 1, 3]])
def test_noise_is_paired_so_that_no_other_pairing_is_nearer(lengths: list[int]) -> None:
    """Against every permutation, on items of different lengths too; what lies in the padding has no say."""
    x0, noise, mask = batch_of_lengths(lengths)
    paired = FlowMatching(optimal_transport=True).couple(x0, noise, mask)
    costs = [transport_cost(x0, noise[list(order)], mask) for order in permutations(range(5))]
    assert transport_cost(x0, paired, mask) == pytest.approx(min(costs), rel=1e-5)
    assert min(costs) < 0.9 * transport_cost(x0, noise, mask)
    filled = torch.where(mask[..., None], x0, 100.0)
    assert torch.equal(FlowMatching(optimal_transport=True).couple(filled, noise, mask), paired)


def test_pairing_only_permutes_and_is_off_unless_asked_for() -> None:
    x0, noise, mask = batch_of_lengths([9, 4, 7, 7])
    paired = FlowMatching(optimal_transport=True).couple(x0, noise, mask)
    assert sorted(paired.flatten(1).tolist()) == sorted(noise.flatten(1).tolist())
    assert torch.equal(paired, FlowMatching(optimal_transport=True).couple(x0, noise, mask))
    assert FlowMatching().couple(x0, noise, mask) is noise
    assert torch.equal(FlowMatching(optimal_transport=True).couple(x0[:1], noise[:1], mask[:1]), noise[:1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(FlowMatching(optimal_transport=True).couple(x0, noise, mask), paired)


def test_permuting_the_items_permutes_the_pairs() -> None:
    x0, noise, mask = batch_of_lengths([9, 4, 7, 5])
    flow, order = FlowMatching(optimal_transport=True), [2, 0, 3, 1]
    assert torch.equal(flow.couple(x0[order], noise, mask[order]), flow.couple(x0, noise, mask)[order])


def test_paired_noise_straightens_the_flow_of_one_dimension() -> None:
    """In one dimension the plan sorts: the target is then nearly a function of the point, as it never is otherwise."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.where(torch.rand(256, 1, 1, generator=generator) < 0.5, -2.0, 2.0)
    x0 = x0 + 0.3 * torch.randn(256, 1, 1, generator=generator)
    noise, mask = torch.randn(256, 1, 1, generator=generator), torch.ones(256, 1, dtype=torch.bool)
    paired = FlowMatching(optimal_transport=True).couple(x0, noise, mask)
    assert torch.equal(paired.flatten()[x0.flatten().argsort()], noise.flatten().sort().values)
    assert transport_cost(x0, paired, mask) < 0.5 * transport_cost(x0, noise, mask)


def test_the_model_pairs_noise_that_it_draws_and_keeps_noise_that_it_is_given(toy_corpus: Path) -> None:
    """Validation gives each item its own noise. What is drawn stays a function of the generator's state."""
    model = toy_model(32, 2).train()
    batch = toy_collator()([toy_dataset(toy_corpus, task)[row] for row in (0, 3) for task in TASKS])
    outputs = []
    for flow in (FlowMatching(), FlowMatching(optimal_transport=True), FlowMatching(optimal_transport=True)):
        model.objective = flow
        torch.manual_seed(0)
        outputs.append(model(batch))
    plain, paired, again = outputs
    assert torch.equal(paired.target, again.target) and torch.equal(paired.sigma, plain.sigma)
    assert not torch.equal(paired.target, plain.target)
    costs = [masked_item_mean(output.target**2, output.frame_mask).mean() for output in (paired, plain)]
    assert costs[0] < costs[1]
    given = torch.randn_like(plain.target)
    model.objective = FlowMatching()
    expected = model(batch, noise=given).target
    model.objective = FlowMatching(optimal_transport=True)
    assert torch.equal(model(batch, noise=given).target, expected)


def test_data_that_are_not_finite_are_left_to_the_trainer() -> None:
    x0, noise, mask = batch_of_lengths([4, 4])
    x0[1, 2, 0] = float("nan")
    assert torch.equal(FlowMatching(optimal_transport=True).couple(x0, noise, mask), noise)


# -- noise ------------------------------------------------------------------------------------------------------------


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
