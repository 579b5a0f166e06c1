"""RandomSubspaceCallback: training that moves in a random subspace only. It changes training, on purpose."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, final, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dynamics.core.checks import check_count, speaking
from lightning_dynamics.core.distributed import require_whole_model
from lightning_dynamics.core.lightning import Callback, ConfigurationError, gradients_are_complete, steps_taken
from lightning_dynamics.core.parameters import assign, flatten, unflatten
from lightning_dynamics.core.progress import progress
from lightning_dynamics.interventions.random_subspace.estimator import FastfoodProjection, Kind, Projection, project
from lightning_dynamics.interventions.random_subspace.optimizers import optimizer_of, replace_parameters
from lightning_dynamics.interventions.random_subspace.selection import trained_parameters
from lightning_dynamics.interventions.random_subspace.tuners import (
    checkpoint_of_this_fit,
    finds_learning_rates,
    is_of_learning_rate_finder,
)
from lightning_dynamics.panels import Scalar
from lightning_dynamics.publishing import publish_panels

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


@final
class RandomSubspaceCallback(Callback):
    r"""**Changes training, on purpose**: the weights move only in θ = θ₀ + P θ_d, with a random P (Li et al. 2018).

    θ₀ are the weights that training begins with, P is a ``(D, d)`` matrix whose columns are random directions of unit
    length over all D parameters together, and only the d numbers θ_d, starting from zero, are trained (section 2,
    equation 2). The smallest d with which a network still learns a task is the task's intrinsic dimension for that
    network: see :func:`~lightning_dynamics.intrinsic_dimension`.

    The module and its optimizer stay as they are: when training begins, θ_d replaces the parameters in the
    optimizer's groups. After each backward pass the gradient of θ_d is Pᵀ times that of the weights, whose own
    ``.grad`` is then None; after each step the weights are θ₀ + P θ_d. So gradient clipping, weight decay, momentum,
    loss scaling and learning rate schedules act on θ_d, and nothing else in training changes: its random generators are
    not used, and buffers (BatchNorm's statistics) are updated as usual.

    Checkpoints hold the weights, as usual, so that they can be used without this callback; and also θ_d, θ₀ and the
    seed, from which P is made again. A run that is resumed from one continues as if it had not been interrupted.
    Another ``fit`` of the same module continues in the same subspace.

    Lightning's tuners (``LearningRateFinder``, ``BatchSizeFinder``, ``Tuner``) train a little before training, in the
    whole space, because they take all callbacks out; then they put everything back, and the subspace begins as without
    them. So a learning rate that they find is one for the weights and not for θ_d: a warning says so.

    Several processes (DDP) hold the same θ_d, and each makes the same P.

    Logged keys, after each epoch:

    ======================  ========  ==============================================================
    ``subspace/dim``        scalar    d
    ``subspace/distance``   scalar    ‖θ - θ₀‖, how far the weights have moved
    ======================  ========  ==============================================================

    Cost: P θ_d once per optimizer step and Pᵀ g once per step (under manual optimisation, per backward pass);
    ``benchmarks/subspace.py`` compares it with direct training; figures in ``docs/subspace.md``. Memory: θ₀ (4 D
    bytes), and 12 D to 24 D bytes for "fastfood", 24 d √D for "sparse", 4 D d for "dense". At the start "fastfood"
    takes d products to normalise its basis, with a progress bar.

    Args:
        dim: d.
        projection: ``"fastfood"``, ``"sparse"`` or ``"dense"``: how P is made; see
            :mod:`~lightning_dynamics.random_subspace.estimator`.
        seed: of P.
        parameters: globs: the parameters that move in the subspace. Others are trained as usual; those that
            no optimizer trains or that do not require a gradient are left alone. Tied parameters count once.
        name: distinguishes several of these callbacks in the loggers, as ``subspace/{name}/…``.
        announce: whether to print that training is changed.

    Raises:
        ConfigurationError: before training: patterns that match nothing that is trained, more dimensions than
            parameters, parameters of several optimizers or of groups with different settings, optimizers that cannot
            train a vector (LBFGS, SparseAdam, Muon), lazy modules that have not run yet, complex parameters, parameters
            on several devices, sharded strategies, a checkpoint of another subspace or of none, a tuner in a resumed
            run.

    Example::

        trainer = Trainer(callbacks=[RandomSubspaceCallback(dim=750)])
    """

    @speaking
    def __init__(
        self,
        dim: int = 750,
        projection: Kind = "fastfood",
        seed: int = 0,
        parameters: str | Sequence[str] = "*",
        name: str | None = None,
        announce: bool = True,
    ) -> None:
        """Check the arguments."""
        super().__init__()
        check_count("dim", dim)
        if projection not in get_args(Kind):
            raise ConfigurationError(f"`projection` must be one of {', '.join(get_args(Kind))}; got {projection!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(f"`seed` must be a whole number, got {seed!r}")
        self.dim = dim
        self.projection: Kind = projection
        self.seed = seed
        self.parameters = parameters
        self.name = name
        self.announce = announce
        self._theta_d: nn.Parameter | None = None
        self._theta_0: Tensor | None = None
        self._restored: dict[str, Any] | None = None
        self._is_starting = False
        self._resumed_from: list[Any] = []
        self._chosen: dict[str, nn.Parameter] = {}
        self._matrix: Projection | None = None
        self._hook: Any = None

    # ---- what the user reads -------------------------------------------------------------------------------

    @property
    def theta_d(self) -> Tensor:
        """θ_d ``(d,)``, which is trained; float32, or float64 if a parameter is.

        Raises:
            RuntimeError: training has not begun.
        """
        return self._known(self._theta_d).detach()

    @property
    def theta_0(self) -> Tensor:
        """θ₀ ``(D,)``, the weights that training began with, in the module's order.

        Raises:
            RuntimeError: training has not begun.
        """
        return self._known(self._theta_0)

    @property
    def matrix(self) -> Projection:
        """P, as an object that multiplies with it.

        Raises:
            RuntimeError: training has not begun.
        """
        if self._matrix is None:
            raise RuntimeError("the subspace is chosen when `trainer.fit` begins")
        return self._matrix

    # ---- Lightning's hooks ---------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """One per choice of parameters, so that one Trainer can have two of these callbacks."""
        return self._generate_state_key(parameters=self.parameters, name=self.name)

    @speaking
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that keep parameters or optimizers to themselves."""
        if stage != "fit":
            return
        self._is_starting, self._restored, self._resumed_from = True, None, []
        require_whole_model(trainer)
        if any(cls.__name__ == "DeepSpeedStrategy" for cls in type(trainer.strategy).__mro__):
            raise ConfigurationError(
                "DeepSpeed keeps its own copies of the weights; use Trainer(strategy='ddp') or a single device"
            )
        if trainer.is_global_zero and finds_learning_rates(trainer):
            warnings.warn(
                "RandomSubspaceCallback: LearningRateFinder trains in the whole space, not in the subspace, so the "
                "learning rate that it finds is not one for θ_d; set its `update_attr=False`, and try rates by a short "
                "`fit` each",
                stacklevel=2,
            )

    @speaking
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the parameters by θ_d: the optimizers exist, and their states are not yet restored."""
        self._is_starting = False
        self._begin(trainer, pl_module)
        if self.announce and trainer.is_global_zero:
            print(
                f"RandomSubspaceCallback changes this training, on purpose: {len(self.theta_0):,} parameters move only "
                f"in a random subspace of {self.dim:,} dimensions ({self.projection}, seed {self.seed}, "
                f"{self.matrix.bytes() / 2**20:.1f} MiB)."
            )

    def _begin(self, trainer: Trainer, module: nn.Module) -> None:
        self._chosen = trained_parameters(module, self.parameters, trainer.optimizers)
        optimizer = optimizer_of(self._chosen.values(), trainer.optimizers)
        resumed_from = checkpoint_of_this_fit(trainer, self._resumed_from)
        flat = self._flat()
        if self.dim > len(flat):
            raise ConfigurationError(
                f"`dim={self.dim}` is more than the {len(flat)} parameters that are trained; choose at most as many, "
                f"e.g. `dim={max(1, len(flat) // 10)}`"
            )
        made = self._matrix
        if made is None or (made.size, made.dtype, made.device) != (len(flat), flat.dtype, flat.device):
            self._matrix = self._make(trainer, flat)
        if not self._continues(resumed_from, flat):
            self._theta_0 = flat
            self._theta_d = nn.Parameter(flat.new_zeros(self.dim))
        replace_parameters(self._known(self._theta_d), self._chosen.values(), optimizer)
        self._forget_gradients()
        self._let_go()
        self._hook = optimizer.register_step_post_hook(self._move)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pass the gradient of the weights on to θ_d."""
        if not gradients_are_complete(trainer):
            return
        theta_d = self._known(self._theta_d)
        gradients = [parameter.grad for parameter in self._chosen.values()]
        if theta_d.requires_grad and any(gradient is not None for gradient in gradients):
            gradient = self._gathered(gradients)
            found = self.matrix.down(gradient)
            theta_d.grad = found if theta_d.grad is None else theta_d.grad.add_(found)
        for parameter in self._chosen.values():
            parameter.grad = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how far the weights have moved."""
        if not trainer.is_global_zero or not trainer.loggers:
            return
        label = "subspace" if self.name is None else f"subspace/{self.name}"
        distance = float(self.matrix.up(self.theta_d).norm())
        panels = {"dim": Scalar(float(self.dim)), "distance": Scalar(distance)}
        publish_panels(trainer.loggers, panels, label, epoch=trainer.current_epoch, step=steps_taken(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hook from the optimizer."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lightning skips ``teardown`` when training fails."""
        self._let_go()

    def state_dict(self) -> dict[str, Any]:
        """θ_d, θ₀ and what P is made from; nothing before the subspace of this ``fit`` has begun."""
        if self._is_starting or self._theta_d is None or self._theta_0 is None:
            return {}
        return {"theta_d": self.theta_d.clone(), "theta_0": self._theta_0, **self._making()}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Before training, tuners save: from then on, ``trainer.ckpt_path`` is theirs."""
        if self._is_starting:
            self._resumed_from.append(trainer.ckpt_path)

    @speaking
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse what a tuner found while training in the subspace had already begun."""
        if self._hook is not None and is_of_learning_rate_finder(trainer.ckpt_path):
            raise ConfigurationError(
                "LearningRateFinder was used in the middle of training, where it trains "
                "nothing, because it takes all callbacks out: its losses do not depend on the learning rate; remove "
                "it, or let it run before training, with `update_attr=False`"
            )

    @speaking
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until the optimizers exist; in the middle of training, go back to it."""
        if self._hook is None:
            self._restored = state_dict
            return
        self._check_making(state_dict)
        self.theta_d.copy_(state_dict["theta_d"])
        self.theta_0.copy_(state_dict["theta_0"])
        self._forget_gradients()

    # ---- its own -------------------------------------------------------------------------------------------

    def _making(self) -> dict[str, Any]:
        """What P is made from."""
        return {"dim": self.dim, "projection": self.projection, "seed": self.seed, "parameters": list(self._chosen)}

    def _check_making(self, restored: dict[str, Any]) -> None:
        for argument, value in self._making().items():
            if restored[argument] != value:
                raise ConfigurationError(
                    f"`{argument}={value!r}`, but the checkpoint was trained with {restored[argument]!r}; "
                    "give the same, or load its weights into the module and train without `ckpt_path`"
                )

    def _continues(self, resumed_from: Any, flat: Tensor) -> bool:
        """Whether training continues in an existing subspace: of a checkpoint, or of an earlier ``fit``."""
        restored, self._restored = self._restored, None
        if restored:
            self._check_making(restored)
            self._theta_0 = restored["theta_0"].to(flat)
            self._theta_d = nn.Parameter(restored["theta_d"].to(flat))
            return True
        if resumed_from is not None:
            raise ConfigurationError(
                "`ckpt_path` is a checkpoint of a training without this RandomSubspaceCallback, which cannot continue "
                "in a subspace; load its weights into the module, and train without `ckpt_path`"
            )
        if self._theta_d is None or self._theta_0 is None or len(flat) != len(self._theta_0):
            return False
        self._theta_0, self._theta_d.data = self._theta_0.to(flat), self._theta_d.data.to(flat)
        rounded = unflatten(self._reached(), self._chosen)
        return all(torch.equal(rounded[name].to(p), p.detach()) for name, p in self._chosen.items())

    def _make(self, trainer: Trainer, flat: Tensor) -> Projection:
        if self.projection != "fastfood":
            return project(self.projection, len(flat), self.dim, self.seed, dtype=flat.dtype, device=flat.device)
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None

        def watch(items: Iterable[int], total: int) -> Iterator[int]:
            return progress(items, total=total, description="normalising the basis" if shown else None)

        return FastfoodProjection(len(flat), self.dim, self.seed, flat.dtype, flat.device, watch)

    def _flat(self) -> Tensor:
        """The weights now ``(D,)``, float32 or better."""
        precise = torch.float64 if any(p.dtype is torch.float64 for p in self._chosen.values()) else torch.float32
        return flatten({name: parameter.detach().to(precise) for name, parameter in self._chosen.items()})

    def _gathered(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Gradients of the weights as one vector ``(D,)``; zero where there is none."""
        flat = torch.zeros_like(self.theta_0)
        pieces = unflatten(flat, self._chosen)
        for piece, gradient in zip(pieces.values(), gradients, strict=True):
            if gradient is not None:
                piece.copy_(gradient.to_dense() if gradient.is_sparse else gradient)
        return flat

    def _reached(self) -> Tensor:
        """θ₀ + P θ_d."""
        return self.matrix.up(self.theta_d).add_(self.theta_0)

    def _move(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Write the weights: the optimizer has stepped."""
        assign(self._chosen, unflatten(self._reached(), self._chosen))

    def _forget_gradients(self) -> None:
        for parameter in (self._known(self._theta_d), *self._chosen.values()):
            parameter.grad = None

    def _let_go(self) -> None:
        """Of the optimizer; and of what was about to begin."""
        self._is_starting = False
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    @staticmethod
    def _known(tensor: Any) -> Any:
        if tensor is None:
            raise RuntimeError("the subspace is chosen when `trainer.fit` begins")
        return tensor
