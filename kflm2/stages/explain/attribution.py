"""Which parts of a molecule drive its prediction: integrated gradients over everything a model reads.

Sundararajan, Taly and Yan 2017 (arXiv:1703.01365): what a part adds is the gradient of the prediction by it, averaged
on the straight way from a baseline to the molecule, times its distance from there. All parts together add up to the
difference between the two predictions, which is checked for every molecule.

The baseline is a molecule that says nothing: the mean of the training states for every token, the median for every
descriptor, and the molecule's own skeleton with blank atoms and bonds. Sizes: S steps, T tokens, N atoms, P
descriptors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from kflm2.config.explain import MOST_STEPS
from kflm2.featurize.descriptors import MORGAN_BITS, DescriptorScaler, rdkit_names
from kflm2.featurize.features import Batch
from kflm2.model import CrossAttention, StatesEncoder, pool_mean
from kflm2.trainers.supervised import Ensemble

Output = Callable[[Batch], torch.Tensor]
"""A batch of B molecules to (B,) numbers, each of its own molecule alone."""

VIEWS = ("graph", "tokens", "descriptors")
TOLERANCE = 0.01
"""Share of the difference, or of the targets' standard deviation where that is larger, that the parts may miss."""
_PARTS = ("states", "x", "edge_attr", "descriptors")
_ITEMS = 4096
"""Tokens, atoms and bonds in one pass; more is no faster on a CPU."""


@dataclass(frozen=True)
class Attribution:
    """What each part of one molecule adds to its prediction, in the unit of the output; empty where there is none."""

    prediction: float
    baseline: float
    """Prediction of the molecule that says nothing."""
    tokens: np.ndarray
    """(T,)"""
    atoms: np.ndarray
    """(N,) with half of each bond."""
    descriptors: np.ndarray
    """(P,)"""
    steps: int
    allowed: float
    """Largest gap that is no matter."""

    @property
    def difference(self) -> float:
        """What there is to explain."""
        return self.prediction - self.baseline

    @property
    def shares(self) -> dict[str, float]:
        """View -> what all of it adds."""
        parts = (self.atoms, self.tokens, self.descriptors)
        return {view: float(own.sum()) for view, own in zip(VIEWS, parts, strict=True)}

    @property
    def total(self) -> float:
        """What all parts add."""
        return sum(self.shares.values())

    @property
    def gap(self) -> float:
        """What the parts miss of the difference."""
        return self.difference - self.total

    @property
    def complete(self) -> bool:
        """Whether the gap is no matter."""
        return abs(self.gap) <= self.allowed


def explain(ensemble: Ensemble, molecule: Batch, target: int, pooled: bool, steps: int) -> Attribution:
    """Explain one molecule's prediction, the mean of the members; for classes the mean of their logits.

    Logits, since a probability near 0 or 1 hardly moves, whatever the parts say.

    Args:
        ensemble: its members share the scaling of their inputs.
        molecule: one; its states are those of its tokens.
        target: which column.
        pooled: whether the models read the mean of the tokens' states.
        steps: S to begin with; doubled, up to MOST_STEPS, while the attributions are not complete.
    """
    output = mean_output(ensemble, target, pooled)
    baseline = blank(ensemble, molecule)
    with torch.no_grad():
        there, here = (float(output(end)) for end in (molecule, baseline))
    allowed = TOLERANCE * max(abs(there - here), float(ensemble.members[0].scaler.std[target]))
    while True:
        tokens, atoms, descriptors = _summed(molecule, integrate(output, molecule, baseline, steps))
        attribution = Attribution(there, here, tokens, atoms, descriptors, steps, allowed)
        if attribution.complete or 2 * steps > MOST_STEPS:
            return attribution
        steps *= 2


def mean_output(ensemble: Ensemble, target: int, pooled: bool) -> Output:
    """The mean of the members in the target's unit, or of their logits."""

    def output(batch: Batch) -> torch.Tensor:
        if pooled and batch.states is not None and batch.states_mol is not None:
            mean = pool_mean(batch.states, batch.states_mol, batch.size)
            batch = replace(batch, states=mean, states_mol=torch.arange(batch.size, device=mean.device))
        each = [
            member.model(batch)[:, target].double() * member.scaler.std[target] + member.scaler.mean[target]
            for member in ensemble.members
        ]
        return torch.stack(each).mean(dim=0)

    return output


def blank(ensemble: Ensemble, molecule: Batch) -> Batch:
    """The molecule that says nothing, of the same size."""
    states = None
    if molecule.states is not None:
        encoder = ensemble.members[0].model.encoders["states"]
        assert isinstance(encoder, StatesEncoder)
        states = encoder.scale.mean.expand_as(molecule.states)

    def zero(own: torch.Tensor | None) -> torch.Tensor | None:
        return None if own is None else torch.zeros_like(own)

    return replace(
        molecule,
        states=states,
        x=zero(molecule.x),
        edge_attr=zero(molecule.edge_attr),
        descriptors=zero(molecule.descriptors),
    )


def integrate(output: Output, molecule: Batch, baseline: Batch, steps: int) -> dict[str, np.ndarray]:
    """Integrated gradients of one molecule.

    Args:
        output: what is explained.
        molecule: one.
        baseline: the same size.
        steps: S, nodes of Gauss and Legendre's rule.

    Returns:
        Part, a field of Batch that the molecule has -> float64 of that part's shape.
    """
    ends = {
        name: (start, own - start)
        for name in _PARTS
        if (own := getattr(molecule, name)) is not None and (start := getattr(baseline, name)) is not None
    }
    nodes, weights = _nodes(steps)
    total = {name: np.zeros(way.shape) for name, (_, way) in ends.items()}
    copies = max(1, _ITEMS // max(1, *(len(way) for _, way in ends.values())))
    for first in range(0, steps, copies):
        chosen = slice(first, first + copies)
        size = len(nodes[chosen])
        inputs = {}
        for name, (start, way) in ends.items():
            place = way.new_tensor(nodes[chosen]).view(-1, 1, 1)
            inputs[name] = (start + place * way).flatten(end_dim=1).requires_grad_()
        # copies do not touch each other, so that one gradient of their sum is the gradient of each
        whole = output(_copied(molecule, size, inputs)).sum()
        gradients = torch.autograd.grad(whole, list(inputs.values()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(inputs, gradients, strict=True):
            each = gradient.double().cpu().numpy().reshape(size, *total[name].shape)
            total[name] += np.tensordot(weights[chosen], each, axes=1)
    return {name: total[name] * way.double().cpu().numpy() for name, (_, way) in ends.items()}


def _copied(molecule: Batch, size: int, inputs: dict[str, torch.Tensor]) -> Batch:
    """A batch of `size` copies that differ in their inputs."""
    device = next(iter(inputs.values())).device
    number = torch.arange(size, device=device)

    def owners(items: torch.Tensor | None) -> torch.Tensor | None:
        return None if items is None else number.repeat_interleave(len(items))

    edge_index = None
    if molecule.edge_index is not None and molecule.x is not None:
        shift = (number * len(molecule.x)).repeat_interleave(molecule.edge_index.shape[1])
        edge_index = molecule.edge_index.repeat(1, size) + shift
    return Batch(size, states_mol=owners(molecule.states), x_mol=owners(molecule.x), edge_index=edge_index, **inputs)


@lru_cache
def _nodes(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(S,) places in (0, 1), and (S,) weights that add up to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def _summed(molecule: Batch, found: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T,), (N,) and (P,) from attributions of single features; a bond's go half to each of its atoms."""
    rows = {name: own.sum(axis=1) for name, own in found.items() if name != "descriptors"}
    atoms = rows.get("x", np.zeros(0))
    if "edge_attr" in rows and molecule.edge_index is not None:
        for end in molecule.edge_index.cpu().numpy():
            np.add.at(atoms, end, rows["edge_attr"] / 2)
    descriptors = found["descriptors"][0] if "descriptors" in found else np.zeros(0)
    return rows.get("states", np.zeros(0)), atoms, descriptors


def attention(ensemble: Ensemble, molecule: Batch) -> tuple[np.ndarray, np.ndarray] | None:
    """(T, N) from tokens to atoms and (N, T) back, mean over heads and members; None where nothing crosses.

    Args:
        ensemble: whose members are alike.
        molecule: one; its states are those of its tokens.
    """
    found = []
    with torch.inference_mode():
        for member in ensemble.members:
            fusion = member.model.fusion
            if not (isinstance(fusion, CrossAttention) and fusion.needs_items):
                return None
            found.append([own[0].double().cpu().numpy() for own in fusion.maps(member.model.encode(molecule)[:2])])
    there, back = (np.mean(own, axis=0) for own in zip(*found, strict=True))
    return there, back


def descriptor_names(kind: str, scale: DescriptorScaler) -> list[str]:
    """Names of the descriptors that the models read, in their order."""
    names: list[str] = []
    if "rdkit" in kind:
        names += rdkit_names()
    if "morgan" in kind:
        names += [f"Morgan bit {bit}" for bit in range(MORGAN_BITS)]
    return [names[column] for column in scale.columns]
