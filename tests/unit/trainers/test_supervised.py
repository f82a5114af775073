"""Training of stage 2: use of the parts of a split, choice of the epoch, and reproducibility."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

from kflm2.config.train import ModelConfig, TrainingConfig
from kflm2.data.datasets import Task
from kflm2.data.splits import Split
from kflm2.errors import KFLM2Error
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import build_graphs
from kflm2.featurize.ragged import Ragged
from kflm2.model import FusedModel, StatesEncoder, build
from kflm2.trainers import supervised
from kflm2.trainers.supervised import FittedModel, TargetScaler, fit, masked_loss, positive_weights

N, TARGETS = 40, 2
CPU = torch.device("cpu")
SPLIT = Split("random", np.arange(0, 28), np.arange(28, 34), np.arange(34, 40))
SETTINGS = TrainingConfig(epochs=4, batch_size=8)


def _features() -> Features:
    rng = np.random.default_rng(0)
    smiles = ["C" * (1 + i % 7) + "NOS"[i % 3] + "C" * (i // 7) for i in range(N)]
    rows = [rng.normal(size=(1 + i % 4, 6)).astype(np.float32) for i in range(N)]
    return Features(states=Ragged.pack(rows), graphs=build_graphs(smiles))


def _targets() -> np.ndarray:
    y = np.random.default_rng(1).normal(loc=[5.0, -300.0], scale=[2.0, 40.0], size=(N, TARGETS))
    y[::5, 1] = np.nan
    return y


def _build(features: Features, targets: int = TARGETS) -> Callable[[], FusedModel]:
    return lambda: build("combinedSepAtt", features.sizes(), targets, ModelConfig(states_width=16))


def _fit(y: np.ndarray, seed: int = 0, config: TrainingConfig = SETTINGS) -> tuple[FittedModel, np.ndarray]:
    features = _features()
    fitted = fit(_build(features), features, y, SPLIT, "regression", config, seed, CPU)
    return fitted, fitted.predict(features)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    first, second, other = (_fit(_targets(), seed)[1] for seed in (3, 3, 4))
    assert first.shape == (N, TARGETS)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)


def test_each_head_has_its_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the main head does not change the gradients of an auxiliary head."""
    features, y = _features(), _targets()
    config = ModelConfig(states_width=16, vote=("states", "graph"))
    one_step = TrainingConfig(epochs=1, batch_size=N)

    def gradients(bias: float) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        model = build("combined", features.sizes(), TARGETS, config)
        torch.nn.init.constant_(model.head.bias, bias)
        recorded = {}
        clip = torch.nn.utils.clip_grad_norm_

        def record(*_: object) -> None:
            recorded["auxiliary"] = model.auxiliary_heads["graph"][-1].weight.grad.clone()
            recorded["main"] = model.head.weight.grad.clone()

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", record)
        fit(lambda: model, features, y, SPLIT, "regression", one_step, 0, CPU)
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
        return recorded["auxiliary"], recorded["main"]

    (auxiliary, main), (auxiliary_biased, main_biased) = gradients(0.0), gradients(3.0)
    torch.testing.assert_close(auxiliary, auxiliary_biased)
    assert not torch.allclose(main, main_biased)


def test_test_labels_do_not_change_the_model() -> None:
    changed = _targets()
    changed[SPLIT.test] = 1e6
    np.testing.assert_array_equal(_fit(changed)[1], _fit(_targets())[1])


def test_class_weights_come_from_training_labels_only() -> None:
    features = _features()
    y = (np.arange(N) % 4 == 1).astype(float)[:, None]
    config = TrainingConfig(epochs=2, batch_size=8, class_weight="balanced")
    predicted = []
    for labels in (y[SPLIT.test], 1 - y[SPLIT.test]):
        y[SPLIT.test] = labels
        fitted = fit(_build(features, 1), features, y, SPLIT, "classification", config, 0, CPU)
        predicted.append(fitted.predict(features))
    np.testing.assert_array_equal(*predicted)


def test_targets_are_scaled_with_training_labels_only() -> None:
    y = _targets()
    scaler = TargetScaler(y[SPLIT.train], "regression")
    for target in range(TARGETS):
        labels = y[SPLIT.train, target]
        labels = labels[~np.isnan(labels)]
        assert scaler.mean[target] == pytest.approx(labels.mean())
        assert scaler.std[target] == pytest.approx(labels.std())
    np.testing.assert_allclose(scaler.restore(scaler.scale(y)), y)
    fitted, _ = _fit(y)
    np.testing.assert_array_equal(fitted.scaler.mean, scaler.mean)


def test_states_are_scaled_with_training_rows_only() -> None:
    features = _features()
    fitted, _ = _fit(_targets())
    encoder = fitted.model.encoders["states"]
    assert isinstance(encoder, StatesEncoder)
    assert features.states is not None
    train = features.states.values[: features.states.ptr[28]]
    np.testing.assert_allclose(encoder.scale.mean.numpy(), train.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_a_constant_target_and_classes_are_not_divided_by_zero() -> None:
    assert TargetScaler(np.full((5, 1), 3.0), "regression").scale(np.array([[3.0]])) == 0.0
    for count in (20, 30):  # of which the standard deviation is no exact 0
        y = np.column_stack([np.full(count, -2.7), np.full(count, 0.1), np.arange(count)])
        assert TargetScaler(y, "regression").std.tolist()[:2] == [1.0, 1.0]
        # in its own unit the loss of a target that is constant in training could outweigh all others
        valid = np.array([[-2.7, 1000.1, 0.0], [-2.7, np.nan, 1.0]])
        scaler = TargetScaler(y, "regression", valid)
        assert scaler.std.tolist() == [1.0, pytest.approx(np.append(y[:, 1], 1000.1).std()), y[:, 2].std()]
    y = np.array([[0.0], [1.0], [1.0]])
    np.testing.assert_array_equal(TargetScaler(y, "classification").scale(y), y)
    with pytest.raises(KFLM2Error, match="target 2"):
        TargetScaler(np.array([[1.0, np.nan], [2.0, np.nan]]), "regression")


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_missing_labels_are_left_out_of_loss_and_gradient(task: str) -> None:
    torch.manual_seed(0)
    output = torch.randn(5, 3, requires_grad=True)
    target = torch.randint(0, 2, (5, 3)).float()
    target[0, 1] = target[3, :] = torch.nan
    loss = masked_loss(output, target, task)
    loss.backward()
    terms = []
    for i in range(5):
        for k in range(3):
            if not torch.isnan(target[i, k]):
                function = functional.mse_loss if task == "regression" else functional.binary_cross_entropy_with_logits
                terms.append(function(output[i, k], target[i, k]))
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    torch.testing.assert_close(output.grad == 0, torch.isnan(target))
    assert masked_loss(output, torch.full((5, 3), torch.nan), task) == 0


def test_a_bound_costs_only_what_breaks_it() -> None:
    output = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    target = torch.tensor([[1.5, torch.nan], [torch.nan, torch.nan], [torch.nan, torch.nan]])
    bounds = torch.full((2, 3, 2), torch.nan)
    bounds[0, 1, 0], bounds[0, 2, 0] = 4.0, 4.5  # not below: the first is broken by 1, the second is kept
    bounds[1, 0, 1], bounds[1, 2, 1] = 2.0, 5.5  # not above: the first is just kept, the second broken by 0.5
    loss = masked_loss(output, target, "regression", bounds=bounds)
    loss.backward()
    assert loss.item() == pytest.approx((0.5**2 + 1**2 + 0.5**2) / 5)
    assert output.grad is not None
    torch.testing.assert_close(output.grad, torch.tensor([[-1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]]) / 5)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_weight_of_two_is_two_molecules_and_one_of_zero_is_none(task: Task) -> None:
    torch.manual_seed(0)
    output, target = torch.randn(4, 2), torch.randint(0, 2, (4, 2)).float()
    target[0, 1] = torch.nan
    bounds = torch.full((2, 4, 2), torch.nan)
    if task == "regression":
        bounds[1, 0, 1] = -1.0
    bounds[:, 2] = 1.0
    weights = torch.tensor([2.0, 0.5, 0.0, 0.5])

    def loss_of(rows: list[int], weights: torch.Tensor | None = None) -> torch.Tensor:
        return masked_loss(output[rows], target[rows], task, bounds=bounds[:, rows], weights=weights)

    def labels_in(rows: list[int]) -> int:
        return int((~target[rows].isnan() | ~bounds[:, rows].isnan().all(dim=0)).sum())

    repeated = [0, 0, 0, 0, 1, 3]  # each twice as often as it weighs
    expected = loss_of(repeated) * labels_in(repeated) / 2
    torch.testing.assert_close(loss_of([0, 1, 2, 3], weights) * labels_in([0, 1, 3]), expected)
    # a molecule counts the same whichever others are in its batch
    batches = [[0, 2], [1, 3]]
    parts = [loss_of(rows, weights[rows]) * labels_in([row for row in rows if row != 2]) for rows in batches]
    torch.testing.assert_close(torch.stack(parts).sum(), expected)


def test_a_model_learns_from_bounds_and_not_from_molecules_of_weight_zero() -> None:
    """Of half of the molecules it is only known that the value is above 3; the labels of others are about 0."""
    rng = np.random.default_rng(0)
    y, bounds, weights = rng.normal(scale=0.3, size=(N, 1)), np.full((2, N, 1), np.nan), np.ones(N)
    y[::2], bounds[0, ::2] = np.nan, 3.0
    wrong = y.copy()
    wrong[[1, 9, 17]], weights[[1, 9, 17]] = 50.0, 0.0
    config = TrainingConfig(epochs=40, batch_size=8, learning_rate=3e-3)
    features, build_model = _features(), _build(_features(), 1)
    rows = SPLIT.train[::2]

    def predicted(y_true: np.ndarray, **labels: np.ndarray) -> np.ndarray:
        fitted = fit(build_model, features, y_true, SPLIT, "regression", config, 0, CPU, **labels)
        return fitted.predict(features)[:, 0]

    without, learnt = predicted(y), predicted(y, bounds=bounds)
    assert np.abs(without[rows]).max() < 1.5
    assert learnt[rows].mean() > without[rows].mean() + 1
    np.testing.assert_array_equal(predicted(wrong, weights=weights), predicted(y, weights=weights))


def test_without_exact_labels_to_choose_by_the_last_epoch_is_used() -> None:
    """The loss of no label is 0, and that of bounds is 0 while all are kept: neither can choose an epoch."""
    y, bounds = _targets(), np.full((2, N, TARGETS), np.nan)
    y[SPLIT.valid] = np.nan
    for limit in (np.nan, -1e6):
        bounds[0, SPLIT.valid] = limit
        config = TrainingConfig(epochs=4, batch_size=8, patience=2)
        fitted = fit(_build(_features()), _features(), y, SPLIT, "regression", config, 0, CPU, bounds=bounds)
        assert fitted.best_epoch == 4 == len(fitted.history["valid"])


def test_balanced_classes_have_equal_weight_for_any_class_sizes() -> None:
    """For constant outputs, the positive labels of a target together have the same loss as its negative labels."""
    y = np.full((20, 3), 0.0)
    y[:4, 0] = y[:19, 1] = 1
    y[::3, 0] = np.nan
    weight = positive_weights(y)
    assert weight[2] == 1  # no positive at all
    for k in (0, 1):
        target, output = torch.from_numpy(y[:, [k]]), torch.zeros(20, 1, dtype=torch.float64, requires_grad=True)
        masked_loss(output, target, "classification", torch.from_numpy(weight[[k]])).backward()
        assert output.grad is not None
        assert output.grad.sum().item() == pytest.approx(0, abs=1e-12)
        assert output.grad.abs().sum() > 0


def test_weighting_raises_the_probabilities_of_a_rare_class() -> None:
    features = _features()
    y = np.zeros((N, 1))
    y[[2, 9, 16, 30, 36]] = 1
    predicted = {}
    for class_weight in ("none", "balanced"):
        config = TrainingConfig(epochs=10, batch_size=8, class_weight=class_weight)
        fitted = fit(_build(features, 1), features, y, SPLIT, "classification", config, 0, CPU)
        predicted[class_weight] = fitted.predict(features).mean()
    assert predicted["balanced"] > predicted["none"] + 0.1


def test_the_scaling_of_states_uses_a_sample_of_the_training_molecules(monkeypatch: pytest.MonkeyPatch) -> None:
    features = _features()
    monkeypatch.setattr(supervised, "_SCALE_ROWS", 10)
    fitted, _ = _fit(_targets())
    encoder = fitted.model.encoders["states"]
    assert isinstance(encoder, StatesEncoder)
    rows = features.states.take(np.arange(0, 28, 3)).values
    np.testing.assert_allclose(encoder.scale.mean.numpy(), rows.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_the_weights_of_the_best_validation_loss_are_used() -> None:
    """A large learning rate makes late epochs worse; the prediction must be that of the best epoch, not of the last."""
    config = TrainingConfig(epochs=12, batch_size=8, learning_rate=0.05)
    fitted, y_pred = _fit(_targets(), config=config)
    valid = fitted.history["valid"]
    assert len(valid) == 12
    assert fitted.best_epoch == int(np.argmin(valid)) + 1 < 12
    y = torch.from_numpy(fitted.scaler.scale(_targets()))[SPLIT.valid]
    valid_loss = masked_loss(torch.from_numpy(fitted.scaler.scale(y_pred))[SPLIT.valid], y, "regression").item()
    assert valid_loss == pytest.approx(min(valid), rel=1e-4)
    stopped, _ = _fit(_targets(), config=TrainingConfig(epochs=fitted.best_epoch, batch_size=8, learning_rate=0.05))
    np.testing.assert_array_equal(stopped.predict(_features()), y_pred)


def test_a_model_trained_on_components_predicts_from_states_what_it_was_judged_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervised, "_PREDICT_BATCH", 7)  # components are computed in several blocks
    features, y = _features(), _targets()
    fitted = fit(_build(features), features, y, SPLIT, "regression", SETTINGS, 0, CPU, components=3)
    encoder = fitted.model.states_encoder
    assert encoder is not None and encoder.components is not None and not encoder.reads_components
    assert encoder.inner[0].in_features == 3
    assert fitted.variance == encoder.components.variance
    output = torch.from_numpy(fitted.scaler.scale(fitted.predict(features)))[SPLIT.valid]
    target = torch.from_numpy(fitted.scaler.scale(y))[SPLIT.valid]
    loss = masked_loss(output, target, "regression").item()
    assert loss == pytest.approx(min(fitted.history["valid"]), rel=1e-4)


def test_early_stopping_waits_for_patience_epochs() -> None:
    config = TrainingConfig(epochs=60, batch_size=8, learning_rate=0.05, patience=3)
    fitted, _ = _fit(_targets(), config=config)
    epochs = len(fitted.history["valid"])
    assert epochs == fitted.best_epoch + 3 < 60


def test_predictions_keep_row_order_and_units() -> None:
    features = _features()
    y = np.stack([np.arange(N) * 100.0, np.arange(N) * -1.0], axis=1)
    config = TrainingConfig(epochs=60, batch_size=8)
    split = Split("random", np.arange(N), np.arange(6), np.arange(6))
    y_pred = fit(_build(features), features, y, split, "regression", config, 0, CPU).predict(features)
    assert np.corrcoef(y_pred[:, 0], y[:, 0])[0, 1] > 0.9
    assert np.abs(y_pred - y).mean(axis=0)[0] < 600


def test_classes_are_predicted_as_probabilities() -> None:
    features = _features()
    y = (np.arange(N) % 3 == 1).astype(float)[:, None]  # whether the hetero atom is oxygen
    y[3] = np.nan
    split = Split("random", np.arange(N), np.arange(9), np.arange(9))
    config = TrainingConfig(epochs=60, batch_size=8)
    y_pred = fit(_build(features, 1), features, y, split, "classification", config, 0, CPU).predict(features)
    assert ((y_pred >= 0) & (y_pred <= 1)).all()
    assert y_pred[1::3].mean() > y_pred[2::3].mean() + 0.3


def test_a_diverging_loss_is_an_error() -> None:
    with pytest.raises(KFLM2Error, match="diverged"):
        _fit(_targets(), config=TrainingConfig(epochs=4, learning_rate=1e30))


@pytest.mark.parametrize("steps", range(1, 12))
def test_the_learning_rate_of_one_cycle_falls_to_its_end_in_any_number_of_steps(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = supervised.schedule_of(optimizer, TrainingConfig(schedule="onecycle", learning_rate=0.1), steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert 0 < rates[-1] <= max(rates) <= 0.1 and (steps == 1 or rates[-1] < 1e-3 * max(rates))
    assert max(rates) > 0.01  # a single step learns something too
