"""Attribution of a prediction to the parts of a molecule: integrated gradients over all inputs of a model.

Sundararajan, Taly and Yan 2017 (arXiv:1703.01365): the attribution of a part is the gradient of the prediction with
respect to it, averaged along the straight line from a baseline to the molecule, times the part's difference from the
baseline. All attributions add up to the difference between the two predictions, which is checked for every molecule.

The baseline is average: for every token the mean of the training states, for every descriptor the median, and the same
molecular graph with the mean features of the training molecules' atoms and bonds. It has as many atoms as the molecule,
and its prediction depends on their number, as it does with features of 0; attributions are compared within a molecule
only. Covariates (pH, assay ...) are those of the molecule in both: what is explained is the structure under these
conditions. Sizes: S steps, T tokens, N atoms, P descriptors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from scipy.special import logit

from kflm2.config.explain import MOST_STEPS
from kflm2.encoded_view import pool_mean
from kflm2.featurize.average_atom import AverageAtom
from kflm2.featurize.features import Batch, Features
from kflm2.model import CrossAttention, StatesEncoder
from kflm2.trainers.supervised import Ensemble

Output = Callable[[Batch], torch.Tensor]
"""A function of a batch of B molecules that returns (B,) values, each of which depends on its molecule only."""

VIEWS = ("graph", "tokens", "descriptors")
VOTERS = {"svm": "SVM", "forest": "forest", "llm": "SVM of tokens", "minimol": "SVM of MiniMol"}
"""Voter -> its name in pictures."""
TOLERANCE = 0.01
"""Largest gap, as a share of the difference, or of the target's standard deviation if that is larger."""
_PARTS = ("states", "x", "edge_attr", "descriptors")
_ITEMS = 4096
"""Tokens, atoms and bonds in one pass; more is no faster on a CPU."""


@dataclass(frozen=True)
class Attribution:
    """Attributions of the parts of one molecule, in the unit of the output; empty for a view that is not read."""

    prediction: float
    baseline: float
    """Prediction for the baseline."""
    tokens: np.ndarray
    """(T,)"""
    atoms: np.ndarray
    """(N,) each with half of the attribution of its bonds."""
    descriptors: np.ndarray
    """(P,)"""
    steps: int
    allowed: float
    """Largest gap at which the attributions are complete."""
    voters: dict[str, float] = field(default_factory=dict)
    """Name -> attribution of a voter beside the network, as a whole: its weighted difference."""

    @property
    def difference(self) -> float:
        """Prediction minus baseline, which the attributions add up to."""
        return self.prediction - self.baseline

    @property
    def shares(self) -> dict[str, float]:
        """View, and voter, -> sum of its attributions."""
        attributions = (self.atoms, self.tokens, self.descriptors)
        return {view: float(values.sum()) for view, values in zip(VIEWS, attributions, strict=True)} | self.voters

    @property
    def total(self) -> float:
        """Sum of all attributions."""
        return sum(self.shares.values())

    @property
    def gap(self) -> float:
        """Difference minus the sum of all attributions."""
        return self.difference - self.total

    @property
    def complete(self) -> bool:
        """Whether the gap is small enough."""
        return abs(self.gap) <= self.allowed


def explain(
    ensemble: Ensemble, molecule: Batch, average: AverageAtom | None, target: int, pooled: bool, steps: int
) -> Attribution:
    """Explain the prediction for one molecule, the mean over the members; for classification the mean logit.

    Logits are explained since the gradient of a probability near 0 or 1 is almost 0.

    Args:
        ensemble: its members share the scaling of their inputs.
        molecule: a batch of one molecule, with the states of its tokens.
        average: see baseline_of.
        target: index of the target.
        pooled: whether the models read the mean of the tokens' states.
        steps: S at first; doubled, up to MOST_STEPS, while the attributions are not complete.
    """
    output = mean_output(ensemble, target, pooled)
    baseline = baseline_of(ensemble, molecule, average)
    with torch.no_grad():
        prediction, baseline_prediction = (float(output(batch)) for batch in (molecule, baseline))
    allowed = TOLERANCE * max(abs(prediction - baseline_prediction), float(ensemble.members[0].scaler.std[target]))
    while True:
        tokens, atoms, descriptors = _sum_features(molecule, integrate(output, molecule, baseline, steps))
        attribution = Attribution(prediction, baseline_prediction, tokens, atoms, descriptors, steps, allowed)
        if attribution.complete or 2 * steps > MOST_STEPS:
            return attribution
        steps *= 2


def explain_all(
    ensemble: Ensemble,
    scaled: Features,
    molecule: Batch,
    average: AverageAtom | None,
    target: int,
    pooled: bool,
    steps: int,
    unscaled: Sequence[int] = (),
) -> Attribution:
    """Explain the prediction of all models: the networks, the voters, and the baseline before them, by their weights.

    A voter is one number. What a ridge baseline makes of a descriptor is its coefficient times the difference from the
    median, and is added to what the networks make of the same descriptor. For classification all is of the weighted
    mean of the log-odds.

    Args:
        ensemble: with or without voters and baseline.
        scaled: features of the molecule, as the models read it.
        molecule: the same as a batch, for the networks, with the states of its tokens.
        average: see baseline_of.
        target: index of the target.
        pooled: whether the networks read the mean of the tokens' states.
        steps: see explain.
        unscaled: columns of the descriptors that the baseline reads.
    """
    weights = [1.0] if ensemble.weights is None else ensemble.weights[:, target].tolist()
    parts: list[tuple[float, Attribution]] = []
    beside: dict[str, float] = {}
    prediction = baseline = 0.0
    linear: np.ndarray | float = 0.0
    for models in (ensemble, ensemble.delta):
        if models is None:
            continue
        own, *others = weights[: 1 + len(models.voters)]
        weights = weights[1 + len(models.voters) :]
        parts.append((own, explain(models, molecule, average, target, pooled, steps)))
        changes = [
            (
                voter,
                weight,
                voter.predict(scaled)[:, 0, target],
                voter.baseline(scaled.covariates)[:, target],
            )
            for weight, voter in zip(others, models.voters, strict=True)
        ]
        if models.baseline is not None:
            before, linear = _of_ridge(models, scaled, target, unscaled)
            whole = own + sum(others)
            linear *= whole
            prediction, baseline = prediction + whole * before + float(linear.sum()), baseline + whole * before
        for voter, weight, end, start in changes:
            if models.members[0].task == "classification":
                end, start = (logit(value.clip(voter.least, 1 - voter.least)) for value in (end, start))
            prediction, baseline = prediction + weight * float(end.mean()), baseline + weight * float(start.mean())
            name = VOTERS[voter.name]
            beside[name] = beside.get(name, 0.0) + weight * float(end.mean() - start.mean())
    return Attribution(
        prediction=prediction + sum(weight * part.prediction for weight, part in parts),
        baseline=baseline + sum(weight * part.baseline for weight, part in parts),
        tokens=np.sum([weight * part.tokens for weight, part in parts], axis=0),
        atoms=np.sum([weight * part.atoms for weight, part in parts], axis=0),
        descriptors=np.sum([weight * part.descriptors for weight, part in parts], axis=0) + linear,
        steps=max(part.steps for _, part in parts),
        allowed=max(part.allowed for _, part in parts),
        voters=beside,
    )


def _of_ridge(models: Ensemble, scaled: Features, target: int, unscaled: Sequence[int]) -> tuple[float, np.ndarray]:
    """What the baseline predicts of median descriptors, and (P,) what each scaled descriptor adds to that."""
    assert models.baseline is not None and models.descriptor_scaler is not None and scaled.unscaled is not None
    median, columns = models.baseline.median, models.descriptor_scaler.columns
    before = float(models.baseline.predict(median[None])[:, 0, target].mean())
    coefficients = models.baseline.coefficients[:, :, target].mean(axis=0)
    shares = coefficients * (models.baseline.filled(scaled.unscaled)[0] - median)
    out = np.zeros(len(columns))
    # a column that is constant is no input of the networks, and has no coefficient
    varying = np.isin(unscaled, columns)
    out[np.searchsorted(columns, np.array(unscaled)[varying])] = shares[varying]
    return before, out


def mean_output(ensemble: Ensemble, target: int, pooled: bool) -> Output:
    """The mean of the members' predictions in the target's unit, or of their logits."""

    def output(batch: Batch) -> torch.Tensor:
        if pooled and batch.states is not None and batch.states_mol is not None:
            mean = pool_mean(batch.states, batch.states_mol, batch.size)
            batch = replace(batch, states=mean, states_mol=torch.arange(batch.size, device=mean.device))
        outputs = [
            member.model(batch)[:, target].double() * member.scaler.std[target] + member.scaler.mean[target]
            for member in ensemble.members
        ]
        return torch.stack(outputs).mean(dim=0)

    return output


def baseline_of(ensemble: Ensemble, molecule: Batch, average: AverageAtom | None) -> Batch:
    """The baseline of a molecule, of the same shapes.

    Args:
        ensemble: holds the mean of the training states.
        molecule: a batch of one molecule.
        average: in the place of its atoms and bonds; None for a model without a graph.
    """
    states = None
    if molecule.states is not None:
        encoder = ensemble.members[0].model.encoders["states"]
        assert isinstance(encoder, StatesEncoder)
        states = encoder.scale.mean.expand_as(molecule.states)

    x, edge_attr, descriptors = molecule.x, molecule.edge_attr, molecule.descriptors
    if average is not None and x is not None and edge_attr is not None:
        x = x.new_tensor(average.atom).expand_as(x)
        edge_attr = edge_attr.new_tensor(average.bond).expand_as(edge_attr)
    # 0 is the median of scaled descriptors
    descriptors = None if descriptors is None else torch.zeros_like(descriptors)
    return replace(molecule, states=states, x=x, edge_attr=edge_attr, descriptors=descriptors)


def integrate(output: Output, molecule: Batch, baseline: Batch, steps: int) -> dict[str, np.ndarray]:
    """Integrated gradients of one molecule.

    Args:
        output: the function that is explained.
        molecule: a batch of one molecule.
        baseline: of the same shapes.
        steps: S, the nodes of Gauss-Legendre quadrature.

    Returns:
        Name of a field of Batch that the molecule has -> float64 attributions of the field's shape.
    """
    paths = {
        name: (start, end - start)
        for name in _PARTS
        if (end := getattr(molecule, name)) is not None and (start := getattr(baseline, name)) is not None
    }
    nodes, weights = _quadrature(steps)
    integrals = {name: np.zeros(difference.shape) for name, (_, difference) in paths.items()}
    copies = max(1, _ITEMS // max(1, *(len(difference) for _, difference in paths.values())))
    for first in range(0, steps, copies):
        chosen = slice(first, first + copies)
        size = len(nodes[chosen])
        inputs = {}
        for name, (start, difference) in paths.items():
            fraction = difference.new_tensor(nodes[chosen]).view(-1, 1, 1)
            inputs[name] = (start + fraction * difference).flatten(end_dim=1).requires_grad_()
        # copies are independent, so that the gradient of the sum gives the gradient of each output
        total = output(_repeat(molecule, size, inputs)).sum()
        gradients = torch.autograd.grad(total, list(inputs.values()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(inputs, gradients, strict=True):
            by_node = gradient.double().cpu().numpy().reshape(size, *integrals[name].shape)
            integrals[name] += np.tensordot(weights[chosen], by_node, axes=1)
    return {name: integrals[name] * difference.double().cpu().numpy() for name, (_, difference) in paths.items()}


def _repeat(molecule: Batch, size: int, inputs: dict[str, torch.Tensor]) -> Batch:
    """A batch of `size` copies of the molecule with the given inputs."""
    device = next(iter(inputs.values())).device
    copies = torch.arange(size, device=device)

    def copy_of(items: torch.Tensor | None) -> torch.Tensor | None:
        return None if items is None else copies.repeat_interleave(len(items))

    edge_index = None
    if molecule.edge_index is not None and molecule.x is not None:
        offsets = (copies * len(molecule.x)).repeat_interleave(molecule.edge_index.shape[1])
        edge_index = molecule.edge_index.repeat(1, size) + offsets
    return Batch(
        size,
        states_mol=copy_of(molecule.states),
        x_mol=copy_of(molecule.x),
        edge_index=edge_index,
        covariates=None if molecule.covariates is None else molecule.covariates.expand(size, -1),
        **inputs,
    )


@lru_cache
def _quadrature(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(S,) nodes in (0, 1), and (S,) weights that add up to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def _sum_features(molecule: Batch, by_feature: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T,), (N,) and (P,) sums of the attributions of features; each atom of a bond gets half of the bond's."""
    rows = {name: values.sum(axis=1) for name, values in by_feature.items() if name != "descriptors"}
    atoms = rows.get("x", np.zeros(0))
    if "edge_attr" in rows and molecule.edge_index is not None:
        for bond_atoms in molecule.edge_index.cpu().numpy():
            np.add.at(atoms, bond_atoms, rows["edge_attr"] / 2)
    descriptors = by_feature["descriptors"][0] if "descriptors" in by_feature else np.zeros(0)
    return rows.get("states", np.zeros(0)), atoms, descriptors


def attention(ensemble: Ensemble, molecule: Batch) -> tuple[np.ndarray, np.ndarray] | None:
    """(T, N) attention of tokens to atoms and (N, T) of atoms to tokens, mean over heads and members.

    None for models without cross attention over tokens and atoms.

    Args:
        ensemble: its members have the same architecture.
        molecule: a batch of one molecule, with the states of its tokens.
    """
    maps = []
    with torch.inference_mode():
        for member in ensemble.members:
            fusion = member.model.fusion
            if not (isinstance(fusion, CrossAttention) and fusion.needs_items):
                return None
            views = member.model.encode(molecule)[:2]
            maps.append([weights[0].double().cpu().numpy() for weights in fusion.attention_maps(views)])
    to_atoms, to_tokens = (np.mean(weights, axis=0) for weights in zip(*maps, strict=True))
    return to_atoms, to_tokens
