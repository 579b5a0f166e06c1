"""Deep linear networks: closed forms against automatic differentiation, and the module against a Trainer."""

from __future__ import annotations

import warnings
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from lightning_dynamics import ConfigurationError
from lightning_dynamics.analyses.curvature import extreme_eigenvalues
from lightning_dynamics.data.problems import DeepLinear
from lightning_dynamics.data.problems.estimator import num_parameters, split


def covariance(size, seed):
    a = torch.randn(size, size + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.T / size


def general(sizes, noisy=True):
    """A network whose x, y have a covariance of full rank."""
    joint = covariance(sizes[0] + sizes[-1], 7)
    x = slice(0, sizes[0])
    y = slice(sizes[0], None)
    return DeepLinear(sizes, joint[x, x], joint[y, x], joint[y, y] if noisy else None), joint


PROBLEMS = {
    "scalar 1": DeepLinear.multiply_by_one(depth=1),
    "scalar 2": DeepLinear.multiply_by_one(),
    "scalar 4": DeepLinear.multiply_by_one(depth=4),
    "wide": DeepLinear.multiply_by_one(depth=3, width=2),
    "autoencoder": DeepLinear.autoencoder(),
    "deep": general([3, 2, 4, 2])[0],
    "shallow": general([2, 3], noisy=False)[0],
}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())


def by_definition(problem, theta):
    """The loss from the examples, through the module's own forward: independent of the closed forms."""
    named = dict(zip(dict(problem.named_parameters()), split(theta, problem.sizes), strict=True))
    x, y = problem.dataset.tensors
    output = x
    for weight in named.values():
        output = output @ weight.T
    return (output - y).square().sum(-1).mean() / 2


def points(problem, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, num_parameters(problem.sizes), generator=generator, dtype=torch.float64)


@every_problem
def test_loss_gradient_and_hessian_are_those_of_autograd(problem):
    theta = points(problem, 5)
    for closed, derive in [
        (problem.loss_at(theta), lambda it: by_definition(problem, it)),
        (problem.gradient_at(theta), lambda it: jacobian(partial(by_definition, problem), it)),
        (problem.hessian_at(theta), lambda it: hessian(partial(by_definition, problem), it)),
    ]:
        assert closed.dtype == torch.float64
        torch.testing.assert_close(closed, torch.stack([derive(it) for it in theta]), rtol=1e-11, atol=1e-11)


@every_problem
def test_points_come_in_any_shape(problem):
    theta = points(problem, 2, 3)
    one = theta[1, 2]
    count = theta.shape[-1]
    assert problem.hessian_at(theta).shape == (2, 3, count, count)
    assert problem.gradient_at(theta[:, :0]).shape == (2, 0, count)
    for name in ("loss_at", "gradient_at", "hessian_at"):
        torch.testing.assert_close(getattr(problem, name)(theta)[1, 2], getattr(problem, name)(one.tolist()))


def test_the_moments_of_the_data_are_those_asked_for():
    problem, joint = general([3, 2, 4, 2])
    z = torch.cat(problem.dataset.tensors, dim=1)
    assert len(z) == 5  # as few as there can be
    torch.testing.assert_close(z.T @ z / len(z), joint, rtol=1e-12, atol=1e-12)
    x, y = DeepLinear.autoencoder((3.0, 1.0)).dataset.tensors
    torch.testing.assert_close(x, torch.tensor([[6.0**0.5, 0.0], [0.0, 2.0**0.5]], dtype=torch.float64))
    assert torch.equal(x, y)
    x, y = DeepLinear.multiply_by_one().dataset.tensors
    assert x.tolist() == y.tolist() == [[1.0]]
    flat = DeepLinear([2, 1], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0]])  # x varies in one direction alone
    assert len(flat.dataset) == 1
    torch.testing.assert_close(flat.loss_at([0.5, 0.5]), torch.tensor(0.0, dtype=torch.float64))


def test_the_loss_is_exact_near_a_solution():
    """½ (ab − 1)² at a distance where 1 − 2 ab + (ab)² has no digit left."""
    theta = torch.tensor([1.0 + 2**-40, 1.0], dtype=torch.float64)
    assert float(DeepLinear.multiply_by_one().loss_at(theta)) == 2.0**-81


@pytest.mark.parametrize("name", ["autoencoder", "deep", "wide"])
def test_the_minimum_is_the_least_that_descent_reaches(name):
    problem = PROBLEMS[name]
    theta = (0.7 * points(problem, 40, seed=1)).requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=400, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        theta.grad = problem.gradient_at(theta.detach())
        return problem.loss_at(theta.detach()).sum()

    for _ in range(5):
        optimizer.step(closure)
    reached = problem.loss_at(theta.detach())
    assert float(reached.min()) == pytest.approx(problem.minimum_loss, rel=1e-7, abs=1e-9)
    assert problem.minimum_loss <= float(reached.min()) + 1e-12


def test_a_balance_is_kept_by_the_flow():
    """dW/dt = −gradient leaves W_(l+1)ᵀ W_(l+1) − W_l W_lᵀ as it is: its derivative along the gradient is 0."""
    problem = PROBLEMS["deep"]
    theta = points(problem, 4)

    def moved(step):
        return torch.cat([it.flatten(-2) for it in problem.conserved_at(theta - step * problem.gradient_at(theta))], -1)

    h = 1e-5
    slope = (moved(h) - moved(-h)) / (2 * h)
    size = problem.gradient_at(theta).norm()
    assert len(problem.conserved_at(theta)) == 2 and float(slope.abs().max()) < 1e-9 * float(size)
    assert float(moved(h).sub(moved(0.0)).abs().max()) > 1e-12  # a step of any length changes it, to second order


def test_one_step_of_descent_and_the_conserved_quantity():
    problem = DeepLinear.multiply_by_one()
    theta, rate = points(problem, 50), 0.3
    (before,) = problem.conserved_at(theta)
    (after,) = problem.conserved_at(theta - rate * problem.gradient_at(theta))
    factor = 1 - (rate * (theta.prod(-1) - 1)) ** 2
    torch.testing.assert_close(after, before * factor[:, None, None], rtol=1e-12, atol=1e-13)


# ---- a LightningModule ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*is smaller than the logging interval.*")
@pytest.mark.filterwarnings("ignore:.*GPU available but not used.*")
def test_a_trainer_descends_the_exact_surface(tmp_path):
    problem = general([3, 2, 4, 2])[0].double()
    problem.lr = 0.05
    theta = problem.theta
    for _ in range(3):
        theta = theta - 0.05 * problem.gradient_at(theta)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(problem)
    torch.testing.assert_close(problem.theta, theta, rtol=1e-12, atol=1e-12)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    again = DeepLinear.load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True)
    assert again.sizes == (3, 2, 4, 2)
    torch.testing.assert_close(again.double().loss_at(theta), problem.loss_at(theta))


def test_training_step_is_the_loss_in_every_precision():
    for dtype, error in ((torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 0.1)):
        problem = DeepLinear.autoencoder((3.0, 1.0)).to(dtype).move_to([0.5, 1.0, -0.25, 2.0])
        batch = next(iter(problem.train_dataloader()))
        loss = problem.loss(batch)
        assert loss.dtype == dtype and float(loss.detach()) == pytest.approx(
            float(problem.loss_at([0.5, 1.0, -0.25, 2.0])), rel=error
        )


def test_it_can_be_written_in_a_yaml_file(tmp_path):
    from lightning.pytorch.cli import LightningCLI

    config = tmp_path / "config.yaml"
    config.write_text(
        "trainer: {accelerator: cpu, logger: false, enable_checkpointing: false}\n"
        "model: {sizes: [2, 1, 2], input_covariance: [[3, 0], [0, 1]], lr: 0.05}\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's and jsonargparse's, about each other
        cli = LightningCLI(DeepLinear, args=["--config", str(config)], run=False, save_config_callback=None)
    theta = points(cli.model, 3)
    torch.testing.assert_close(cli.model.loss_at(theta), DeepLinear.autoencoder((3.0, 1.0)).loss_at(theta))
    assert cli.model.lr == 0.05


def test_theta_is_in_the_order_of_the_parameters():
    problem = general([3, 2, 4, 2])[0]
    theta = points(problem).float()
    assert problem.move_to(theta) is problem
    assert torch.equal(problem.theta, theta.double())
    assert torch.equal(torch.nn.utils.parameters_to_vector(problem.parameters()), theta)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    weights = split(theta, problem.sizes)
    torch.testing.assert_close(problem(x).double(), x.double() @ (weights[2] @ weights[1] @ weights[0]).T)
    out = functional_call(problem, dict(problem.named_parameters()), (x,))
    assert torch.equal(out, problem(x))


def test_the_curvature_callbacks_search_finds_the_known_eigenvalues():
    """At a solution of ab = 1, H = (b, a)(b, a)ᵀ."""
    problem = DeepLinear.multiply_by_one().double().move_to([2.0, 0.5])
    batches = list(problem.train_dataloader())
    found = extreme_eigenvalues(problem, DeepLinear.loss, batches)
    assert float(found.largest) == pytest.approx(4.25, rel=1e-6) and float(found.smallest) == pytest.approx(0)


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([3],), r"`sizes=\[3\]`"),
        (([3, 0, 1],), "`sizes="),
        (([3, 2.5, 1],), "`sizes="),
        (([2, 1],), r"give `cross_covariance` \(1, 2\)"),
        (([2, 2], [[1.0, 2.0], [2.0, 1.0]]), "`input_covariance` is no covariance: -1 is an eigenvalue"),
        (([2, 2], [[1.0, 0.5], [0.0, 1.0]]), "`input_covariance` must be a symmetric"),
        (([2, 2], [[1.0]]), r"`input_covariance` must be a symmetric matrix \(2, 2\)"),
        (([1, 1], [[float("nan")]]), "of finite numbers"),
        (([1, 1], [[0.0]]), "`input_covariance` is 0"),
        (([1, 2], None, [[1.0, 1.0]]), r"`cross_covariance` must be \(2, 1\), got \(1, 2\)"),
        (([2, 1], [[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0]]), "directions in which x does not vary"),
        (([1, 1], None, [[2.0]], [[3.0]]), "`target_covariance` is no covariance that fits the others: -1"),
    ],
    ids=range(12),
)
def test_moments_that_no_data_have(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        DeepLinear(*arguments)


def test_points_and_questions_that_do_not_fit():
    problem = DeepLinear.autoencoder()
    for theta in (torch.zeros(3), torch.tensor(1.0)):
        with pytest.raises(ConfigurationError, match=r"points of this network are \(…, 4\)"):
            problem.loss_at(theta)
    with pytest.raises(ConfigurationError, match="must be one point"):
        problem.move_to(torch.zeros(2, 4))
    for name in ("basins", "flow_limit", "solution", "distance_to_solutions"):
        with pytest.raises(ConfigurationError, match=rf"`{name}` is known for multiply_by_one .* \(2, 1, 2\)"):
            getattr(problem, name)([0.0] * 4)
    with pytest.raises(ConfigurationError, match="`eigenvalues=.*must be positive"):
        DeepLinear.autoencoder((1.0, 0.0))
    with pytest.raises(ConfigurationError, match="`depth=0`"):
        DeepLinear.multiply_by_one(depth=0)
    other = DeepLinear([1, 1, 1], None, [[2.0]])  # multiplies by two
    with pytest.raises(ConfigurationError, match="`flow` is known for multiply_by_one"):
        other.flow([1.0, 1.0], np.float64(1.0))
