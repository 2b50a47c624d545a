"""The diffusion objective: noising, targets, solvers against data with a known optimal prediction, and its use."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import TASKS
from test_model_folder import TOY_CONFIG
from toy import randomised, toy_collator, toy_dataset, toy_model
from unisono.config import compose
from unisono.errors import UserError
from unisono.inference.model_folder import load_model_folder, save_model_folder
from unisono.models.unified import GenerationSettings, UnifiedAudioModel
from unisono.objectives import Branch, Diffusion, Guidance, Predict, guided
from unisono.training.losses import AudioGenerationLoss
from unisono.types import Batch

CPU = torch.device("cpu")
PREDICTIONS = ("v_prediction", "epsilon", "sample")
SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear")


def every_objective() -> Iterator[Any]:
    for prediction in PREDICTIONS:
        for schedule in SCHEDULES:
            yield pytest.param(
                {"prediction_type": prediction, "beta_schedule": schedule}, id=f"{prediction}-{schedule}"
            )
    yield pytest.param({"rescale_betas_zero_snr": False}, id="some signal at the end")


@pytest.fixture(params=every_objective())
def objective(request: pytest.FixtureRequest) -> Diffusion:
    return Diffusion(**request.param)


def rates(objective: Diffusion, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """How much data and how much noise there is at ``sigma (B,)``, each ``(B, 1, 1)`` float64, from the outside."""
    one = torch.ones(len(sigma), 1, 1, dtype=torch.float64)
    return objective.interpolate(one, 0 * one, sigma), objective.interpolate(0 * one, one, sigma)


# -- noising and targets --------------------------------------------------------------------------------------------


def test_sigma_0_is_nearly_data_and_sigma_1_noise(objective: Diffusion) -> None:
    x0, noise = torch.randn(2, 2, 7, 5, generator=torch.Generator().manual_seed(0))
    path = objective.interpolate(x0, noise, torch.tensor([0.0, 1.0]))
    assert (path[0] - x0[0]).abs().max() < 0.05
    assert (path[1] - noise[1]).abs().max() < 0.12
    if objective.prediction_type != "epsilon":
        assert torch.equal(Diffusion(objective.prediction_type).interpolate(x0, noise, torch.ones(2)), noise)


def test_data_gives_way_to_noise_and_the_variance_stays(objective: Diffusion) -> None:
    data, noise = rates(objective, torch.linspace(0, 1, 1000))
    assert (data.flatten().diff() < 0).all() and (noise.flatten().diff() > 0).all()
    assert torch.allclose(data**2 + noise**2, torch.ones_like(data), atol=1e-12)


@pytest.mark.parametrize("num_timesteps", [2, 50, 1000, 4000])
def test_noise_levels_and_timesteps_are_the_same_thing(num_timesteps: int) -> None:
    objective, timesteps = Diffusion(num_train_timesteps=num_timesteps), torch.arange(num_timesteps)
    assert torch.equal(objective.timestep(timesteps / (num_timesteps - 1)), timesteps)
    torch.manual_seed(0)
    sigma = objective.sample_sigma(num_timesteps, CPU)
    assert torch.equal(objective.timestep(sigma) / (num_timesteps - 1), sigma)
    assert sorted(objective.timestep(sigma).tolist()) == timesteps.tolist()  # one per stratum
    alone = torch.cat([objective.sample_sigma(1, CPU) for _ in range(3000)])
    middle, spread = 0.5, ((num_timesteps + 1) / (12 * (num_timesteps - 1))) ** 0.5
    assert float(alone.mean()) == pytest.approx(middle, abs=0.03) and float(alone.std()) == pytest.approx(spread, 0.05)


def test_every_target_tells_the_same_data(objective: Diffusion) -> None:
    sigma = torch.tensor([0.0, 0.2, 0.5, 0.9, 0.99])
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 7, 3, generator=generator, dtype=torch.float64)
    data_rate, noise_rate = rates(objective, sigma)
    x, target = objective.interpolate(x0, noise, sigma), objective.target(x0, noise, sigma)
    told = {
        "v_prediction": data_rate * x - noise_rate * target,
        "epsilon": (x - noise_rate * target) / data_rate,
        "sample": target,
    }
    assert torch.allclose(told[objective.prediction_type], x0, atol=1e-9)


def test_training_mathematics_reads_no_value_back() -> None:
    """Each value read stalls a GPU. The meta device has no values, so that reading one is an error."""
    meta = torch.device("meta")
    for prediction in PREDICTIONS:
        objective, x0 = Diffusion(prediction), torch.empty(4, 7, 5, device=meta)
        sigma = objective.sample_sigma(4, meta)
        assert objective.interpolate(x0, x0, sigma).shape == objective.target(x0, x0, sigma).shape == x0.shape


def test_mixed_precision_leaves_the_mathematics_alone(objective: Diffusion) -> None:
    x0, noise, sigma = torch.randn(4, 7, 5), torch.randn(4, 7, 5), torch.tensor([0.0, 0.3, 0.9, 1.0])
    predict = gaussian(objective)
    with torch.autocast("cpu", torch.bfloat16):
        noised, target = objective.interpolate(x0, noise, sigma), objective.target(x0, noise, sigma)
        made = objective.generate(predict, noise, 5)
    assert torch.equal(noised, objective.interpolate(x0, noise, sigma)) and noised.dtype == torch.float32
    assert torch.equal(target, objective.target(x0, noise, sigma)) and target.dtype == torch.float32
    assert torch.equal(made, objective.generate(predict, noise, 5)) and made.dtype == torch.float32


# -- generation -----------------------------------------------------------------------------------------------------

MEAN, STD = 1.5, 0.4
QUANTILES = torch.linspace(-2, 2, 9).reshape(1, 9, 1)


def gaussian(objective: Diffusion, mean: float = MEAN, std: float = STD) -> Predict:
    """The best prediction for data ``N(mean, std^2)``: data, noise and ``x`` are jointly normal."""

    def predict(x: Tensor, sigma: float) -> Tensor:
        data_rate, noise_rate = rates(objective, torch.tensor([sigma]))
        surprise = (x - data_rate * mean) / (data_rate**2 * std**2 + noise_rate**2)
        data, noise = mean + data_rate * std**2 * surprise, noise_rate * surprise
        velocity = data_rate * noise - noise_rate * data
        return {"v_prediction": velocity, "epsilon": noise, "sample": data}[objective.prediction_type].float()

    return predict


def start(objective: Diffusion, quantiles: Tensor) -> Tensor:
    """Standard normal quantiles to those of the noised data where generation begins: nearly the same."""
    data_rate, noise_rate = rates(objective, torch.tensor([objective.timesteps(1)[0] / 999]))
    return (data_rate * MEAN + (data_rate**2 * STD**2 + noise_rate**2) ** 0.5 * quantiles).float()


@pytest.mark.parametrize(("solver", "gain"), [("ddim", 1.7), ("dpmpp_2m", 2.5)])
def test_more_steps_come_closer_to_the_flow_of_a_gaussian(objective: Diffusion, solver: str, gain: float) -> None:
    """It keeps each item's quantile."""
    begin, end = start(objective, QUANTILES), MEAN + STD * QUANTILES
    errors = [
        float((objective.generate(gaussian(objective), begin, steps, solver) - end).abs().max())
        for steps in (8, 16, 32, 64)
    ]
    for before, after in pairwise(errors):
        assert after < before / gain + 2e-3, errors
    assert errors[-1] < (0.06 if solver == "ddim" else 0.006), errors


@pytest.mark.parametrize("solver", Diffusion.solvers)
def test_samples_have_the_mean_and_deviation_of_the_data(objective: Diffusion, solver: str) -> None:
    noise = torch.randn(1, 20_000, 1, generator=torch.Generator().manual_seed(0))
    made = objective.generate(gaussian(objective), start(objective, noise), 200, solver)
    assert float(made.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(made.std()) == pytest.approx(STD, abs=0.01)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("num_steps", [1, 8, 50])
def test_ddim_equals_that_of_diffusers_where_its_steps_divide_evenly(prediction: Any, num_steps: int) -> None:
    from diffusers import DDIMScheduler

    schedule: Any = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}  # Stable Diffusion's
    objective = Diffusion(prediction, **schedule, rescale_betas_zero_snr=False)
    reference = DDIMScheduler(
        prediction_type=prediction, **schedule, timestep_spacing="trailing", clip_sample=False, thresholding=False
    )
    reference.set_timesteps(num_steps)
    assert objective.timesteps(num_steps) == reference.timesteps.tolist()
    x, predict = QUANTILES, gaussian(objective)
    for t in reference.timesteps.tolist():
        x = reference.step(predict(x, t / 999), t, x).prev_sample
    assert torch.allclose(objective.generate(predict, QUANTILES, num_steps, "ddim"), x, atol=2e-4)


def test_the_default_solver_needs_fewer_steps() -> None:
    objective = Diffusion()
    made = {name: objective.generate(gaussian(objective), QUANTILES, 24, name) for name in (None, *objective.solvers)}
    errors = {name: float((value - MEAN - STD * QUANTILES).abs().max()) for name, value in made.items()}
    assert torch.equal(made[None], made["dpmpp_2m"]) and errors["dpmpp_2m"] < errors["ddim"] / 5


def test_timesteps_are_spread_evenly_for_every_number_of_steps() -> None:
    for objective in (Diffusion(), Diffusion("epsilon")):
        first = objective.timesteps(1)[0]
        for num_steps in range(1, first + 2):
            timesteps = torch.tensor([*objective.timesteps(num_steps), -1])  # -1 is the data
            gaps = -timesteps.diff()
            assert len(gaps) == num_steps and timesteps[0] == first and gaps.min() > 0
            assert gaps.max() - gaps.min() <= 2
    assert Diffusion().timesteps(1) == [999]
    assert 900 < Diffusion("epsilon").timesteps(1)[0] < 999  # a cosine schedule ends where noise tells nothing


def test_an_error_of_the_network_is_not_blown_up(objective: Diffusion) -> None:
    """Where predicted noise says nothing about the data, its error would come back thousands of times as large."""
    exact = gaussian(objective)

    def slightly_wrong(x: Tensor, sigma: float) -> Tensor:
        return exact(x, sigma) + 1e-3

    for solver in objective.solvers:
        for num_steps in (1, 2, 24):
            made = [objective.generate(predict, QUANTILES, num_steps, solver) for predict in (exact, slightly_wrong)]
            assert (made[0] - made[1]).abs().max() < 16e-3


def test_generation_is_a_function_of_its_noise_alone(objective: Diffusion) -> None:
    noise = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    predict = gaussian(objective)
    for solver in objective.solvers:
        state = torch.get_rng_state()
        together = objective.generate(predict, noise, 6, solver)
        assert torch.equal(torch.get_rng_state(), state)
        for row in range(3):
            assert torch.equal(objective.generate(predict, noise[row : row + 1], 6, solver)[0], together[row])

        def interrupted(x: Tensor, sigma: float, solver: str = solver) -> Tensor:
            objective.generate(predict, 3 * noise, 2, solver)  # another generation must not disturb this one
            return predict(x, sigma)

        assert torch.equal(objective.generate(interrupted, noise, 6, solver), together)


def test_guidance_does_the_same_to_every_kind_of_prediction() -> None:
    made = []
    for prediction in ("v_prediction", "sample"):
        objective = Diffusion(prediction)  # type: ignore[arg-type]
        conditional, unconditional = gaussian(objective, 1.5, 0.4), gaussian(objective, 0.0, 1.0)

        known = {Branch.EVERYTHING: conditional, Branch.NOTHING: unconditional}

        def both(branches: tuple[Branch, ...], x: Tensor, sigma: float, known: dict = known) -> Tensor:
            return torch.cat([known[b](part, sigma) for b, part in zip(branches, x.chunk(len(branches)), strict=True)])

        plain = objective.generate(conditional, QUANTILES, 24)
        assert torch.equal(objective.generate(guided(both, Guidance(1.0)), QUANTILES, 24), plain)
        made.append(objective.generate(guided(both, Guidance(2.0)), QUANTILES, 24))
        assert (made[-1] - plain).abs().max() > 0.1
    assert torch.allclose(made[0], made[1], atol=2e-3)


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction_type": "v_predicton"}, "'v_predicton'.*sample; did you mean v_prediction"),
        ({"beta_schedule": "cosine"}, "'cosine'.*squaredcos_cap_v2, linear, scaled_linear"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1"),
        ({"beta_schedule": "linear", "beta_start": 0.0}, "beta_start 0.0"),
        ({"beta_schedule": "linear", "beta_end": float("nan")}, "beta_end nan"),
        ({"beta_start": 0.03}, "beta_start 0.03"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "says nothing.*v_prediction.*to false"),
        ({"prediction_type": "epsilon", "beta_schedule": "linear", "num_train_timesteps": 100}, "leaves 0.60.*raise"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Diffusion(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, "dpmpp2m"), "'dpmpp2m'; choose one of dpmpp_2m, ddim; did you mean dpmpp_2m"),
        ((4, "euler"), "diffusion.*'euler'; choose one of dpmpp_2m, ddim$"),
        ((4, "ddim", -0.5), "sway is -0.5.*null"),
        ((4, "ddim", None, 3.0), "shift is 3.0.*null"),
        ((0,), "num_steps is 0"),
        ((1001,), "num_steps is 1001.*1000"),
    ],
)
def test_impossible_generations_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    objective = Diffusion()
    with pytest.raises(UserError, match=message):
        objective.generate(gaussian(objective), QUANTILES, *arguments)


# -- in the model ---------------------------------------------------------------------------------------------------


def diffusion_model(prediction: Any = "v_prediction") -> UnifiedAudioModel:
    model = randomised(toy_model(32, 4))
    model.objective = Diffusion(prediction)
    return model


def mixed_batch(root: Path, rows: tuple[int, ...] = (0, 3)) -> Batch:
    return toy_collator()([toy_dataset(root, task)[i] for i in rows for task in TASKS])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_training_lowers_the_loss(prediction: str, toy_corpus: Path) -> None:
    model, batch, loss_fn = diffusion_model(prediction).train(), mixed_batch(toy_corpus), AudioGenerationLoss()
    noise, sigma = torch.randn(6, 30, 40, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 1, 6)

    def fixed_loss() -> float:
        with torch.no_grad():
            return float(
                loss_fn(model(batch, sigma=sigma, noise=noise, drop=torch.zeros(6).bool())).prediction_error.mean()
            )

    before = fixed_loss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(12):
        torch.manual_seed(step)
        loss = loss_fn(model(batch)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert fixed_loss() < 0.8 * before


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_an_item_alone_equals_the_item_in_a_batch(prediction: str, toy_corpus: Path) -> None:
    model, settings = diffusion_model(prediction).eval(), GenerationSettings(num_steps=4)
    together = model.generate(mixed_batch(toy_corpus), list(range(6)), settings)
    again = model.generate(mixed_batch(toy_corpus), list(range(6)), settings)
    assert torch.equal(together.latent, again.latent)
    for i, task in enumerate(TASKS):
        alone = model.generate(toy_collator()([toy_dataset(toy_corpus, task)[0]]), [i], settings)
        frames = int(alone.latent_lengths[0])
        difference = (alone.latent[0] - together.latent[i, :frames]).abs().max()
        assert difference < 2e-4 * together.latent[i].abs().max()
        assert not together.latent[i, frames:].any()


def test_guidance_of_scale_1_is_no_guidance(toy_corpus: Path) -> None:
    model, batch = diffusion_model().eval(), mixed_batch(toy_corpus)
    made = [
        model.generate(batch, list(range(6)), GenerationSettings(num_steps=4, guidance_scale=scale)).latent
        for scale in (1.0, 1.0 + 1e-7, 3.0)
    ]
    assert torch.allclose(made[0], made[1], atol=1e-3)
    assert (made[0] - made[2]).abs().max() > 0.01


def test_a_model_folder_brings_its_objective_back(toy_corpus: Path, tmp_path: Path) -> None:
    cfg = copy.deepcopy(TOY_CONFIG)
    cfg["model"]["objective"] = {"_target_": "unisono.objectives.Diffusion", "prediction_type": "sample"}
    model = randomised(toy_model())
    model.objective = Diffusion("sample")
    folder = save_model_folder(tmp_path / "model", model, cfg, {})
    assert "tags: [audio-generation, diffusion]" in (folder / "README.md").read_text()
    loaded, _ = load_model_folder(folder)
    batch, settings = mixed_batch(toy_corpus), GenerationSettings(num_steps=2)
    expected = model.eval().generate(batch, list(range(6)), settings)
    assert torch.equal(loaded.generate(batch, list(range(6)), settings).latent, expected.latent)


def test_one_override_chooses_the_objective() -> None:
    from hydra.utils import instantiate

    chosen = compose("default", ["model/objective=diffusion"])
    standard = compose("default")
    objective = instantiate(chosen.model.objective)
    assert isinstance(objective, Diffusion) and objective.prediction_type == "v_prediction"
    chosen.model.objective = standard.model.objective
    assert chosen == standard  # everything else is shared


@pytest.mark.slow
def test_the_same_commands_train_and_generate(tmp_path: Path) -> None:
    from unisono.data.mini.corpus import build_mini_corpus

    counts = dict.fromkeys(TASKS, (6, 3, 1))
    build_mini_corpus(tmp_path / "data/mini", workers=1, progress=False, counts=counts)
    where = [f"exp_dir={tmp_path / 'run'}", f"data_root={tmp_path / 'data'}"]
    root = Path(__file__).resolve().parents[1]

    def run(script: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(root / script), *where, *overrides]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    trained = run("train.py", "debug=cpu", "model/objective=diffusion")
    assert trained.returncode == 0, trained.stderr[-3000:]
    for solver in (None, *Diffusion.solvers):
        name = "null" if solver is None else solver
        made = run("inference.py", "generation.num_steps=2", f"generation.solver={name}")
        assert made.returncode == 0, made.stderr[-3000:]
        manifest = tmp_path / "run/inference/manifest.jsonl"
        assert [json.loads(line)["solver"] for line in manifest.open()] == [solver or Diffusion.solvers[0]] * 3
    refused = run("inference.py", "generation.solver=dpmpp")
    assert refused.returncode == 1 and "did you mean dpmpp_2m" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_flow_matching_does_not_wait_for_diffusers() -> None:
    code = "import sys, unisono.models.unified; from unisono.objectives import FlowMatching; FlowMatching(); "
    done = subprocess.run([sys.executable, "-c", code + "sys.exit('diffusers' in sys.modules)"], timeout=120)
    assert done.returncode == 0
