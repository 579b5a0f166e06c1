"""Models of PyTorch Forecasting: LightningModules with losses, metrics and loaders of their own."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_dynamics.core.random_state import seed_all
from tests.kinds.kind import BATCH, Expected, Kind, count
from tests.third_party.case import Case

PAST, FUTURE, STEPS, SERIES = 6, 2, 13, 4
"""Each series has ``STEPS - PAST - FUTURE + 1`` windows."""

QUANTILES = (0.1, 0.5, 0.9)


def data_set(name: str) -> Any:
    """Noisy waves; a model with covariates also knows when it is."""
    import pandas
    from pytorch_forecasting import TimeSeriesDataSet  # type: ignore[import-untyped]

    noise = np.random.default_rng(3).normal(scale=0.1, size=(SERIES, STEPS))
    waves = np.sin(np.arange(STEPS) + np.arange(SERIES)[:, None]) + noise
    table = pandas.DataFrame(
        {
            "time": np.tile(np.arange(STEPS), SERIES),
            "series": np.repeat([str(i) for i in range(SERIES)], STEPS),
            "value": waves.reshape(-1).astype(np.float32),
        }
    )
    knows_the_time = {} if name == "NBeats" else {"time_varying_known_reals": ["time"]}
    return TimeSeriesDataSet(
        table,
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=PAST,
        max_prediction_length=FUTURE,
        time_varying_unknown_reals=["value"],
        target_normalizer=None if name == "NBeats" else "auto",
        **knows_the_time,
    )


def loader(name: str) -> Any:
    return data_set(name).to_dataloader(train=True, batch_size=BATCH, num_workers=0, drop_last=False)


def module(name: str) -> Any:
    import pytorch_forecasting as forecasting
    from pytorch_forecasting.metrics import MAE, NormalDistributionLoss, QuantileLoss  # type: ignore[import-untyped]

    settings: dict[str, dict[str, Any]] = {
        "NBeats": {"widths": [8, 8], "loss": MAE(), "backcast_loss_ratio": 0.0, "num_block_layers": [1, 1]},
        "DeepAR": {"hidden_size": 6, "rnn_layers": 1, "loss": NormalDistributionLoss()},
        "TemporalFusionTransformer": {
            "hidden_size": 6,
            "attention_head_size": 1,
            "hidden_continuous_size": 4,
            "output_size": len(QUANTILES),
            "loss": QuantileLoss(list(QUANTILES)),
        },
    }
    seed_all(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, that losses are modules
        return getattr(forecasting, name).from_dataset(
            data_set(name), learning_rate=1e-2, log_interval=-1, optimizer="adam", **settings[name]
        )


def _absolute(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    x, (y, _) = batch
    return (model(x)["prediction"].squeeze(-1) - y).abs().sum(), count(y)


def _pinball(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """``max(q e, (q - 1) e)``, twice over, as the library has it, as a mean over quantiles and steps."""
    x, (y, _) = batch
    error = y[..., None] - model(x)["prediction"]
    q = torch.tensor(QUANTILES, dtype=error.dtype)
    losses = 2 * torch.maximum(q * error, (q - 1) * error)
    return losses.mean(2).sum(), count(y)


def _normal(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Minus log density: an output holds the series' own centre and spread, and mean and scale in units of these."""
    x, (y, _) = batch
    centre, spread, mean, scale = model(x)["prediction"].unbind(-1)
    error = ((y - centre) / spread - mean) / scale
    return (error.square() / 2 + (scale * spread).log() + 0.5 * np.log(2 * np.pi)).sum(), count(y)


def _case(name: str, few: str, terms: Any) -> Case:
    expected = Expected("regression", "values", inputs=(0,), targets=1)
    return Case(
        "pytorch_forecasting", lambda: Kind(name, lambda: module(name), lambda: loader(name), expected, terms), few
    )


CASES = {
    "NBeats": _case("NBeats", "net_blocks.0.theta_f_fc.*", _absolute),
    "DeepAR": _case("DeepAR", "distribution_projector.*", _normal),
    "TemporalFusionTransformer": _case("TemporalFusionTransformer", "output_layer.*", _pinball),
}
