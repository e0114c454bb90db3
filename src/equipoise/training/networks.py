"""Networks for the training loop: `Copies` of multilayer perceptrons, or `Alone` for any single network."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from equipoise.losses.base import BatchLoss
from equipoise.objective import Objective


@final
class Copies(nn.Module):
    """Networks of linear layers and ReLU with the same shapes, computed together.

    Args:
        models: `nn.Linear`, or `nn.Sequential` of `nn.Linear` and `nn.ReLU`.

    Shapes:
        inputs (K, B, D), logits (K, B, C), for K networks.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = [[each for each in model.modules() if isinstance(each, nn.Linear)] for model in models]
        together = list(zip(*layers, strict=True))
        self.weights: nn.ParameterList = nn.ParameterList(
            torch.stack([each.weight.detach().T for each in same]).contiguous() for same in together
        )
        self.biases: nn.ParameterList = nn.ParameterList(
            torch.stack([each.bias.detach() for each in same])[:, None] for same in together
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of each network for its own rows."""
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs = torch.baddbmm(bias, inputs if place == 0 else inputs.relu(), weight)
        return inputs

    def penalised(self) -> list[nn.Parameter]:
        """Return the weights of the layers without the biases."""
        return list(self.weights)


@final
class Alone(nn.Module):
    """Any single network, with the interface of `Copies` and K = 1.

    Args:
        model: Function of inputs (B, ...) that returns logits (B, C).

    Raises:
        TypeError: When called, if the model does not return a floating tensor.
        ValueError: When called, if the logits have another shape, or a single class.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (1, B, C) logits of (1, B, ...) inputs."""
        logits: Any = self.model(inputs[0])
        name = type(self.model).__name__
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(
                f"model must return its logits, one floating tensor, got {got} from {name}; wrap it in a "
                "module that returns them"
            )
        if logits.ndim != 2 or len(logits) != inputs.shape[1] or logits.shape[1] < 2:
            raise ValueError(
                "model must return logits (B, C), a row for each input and two classes or more, got "
                f"{tuple(logits.shape)} from {name} for inputs {tuple(inputs.shape[1:])}"
            )
        return logits[None]

    def penalised(self) -> list[nn.Parameter]:
        """Return the parameters with two dimensions or more: no biases and scales."""
        return [each for each in self.parameters() if each.ndim > 1]


def separable(objective: Objective) -> bool:
    """Return whether the loss of several copies can be one call: the objective has no `BatchLoss`."""
    return not any(isinstance(term, BatchLoss) for _, term in objective.loss.terms())


def find_device(device: str | torch.device) -> torch.device:
    """Return the device of a name.

    Raises:
        ValueError: If it is neither "cpu" nor a CUDA device, or is not available.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {str(found)!r}")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= there:
        raise ValueError(
            f"device must be a device that torch can use, got {str(found)!r} with {there} CUDA devices; use "
            "'cpu'"
        )
    return found


@torch.no_grad()
def load(model: Copies | Alone, state: Sequence[Tensor]) -> None:
    """Copy parameters and buffers of a `Trained` into a network with one copy."""
    for own, kept in zip([*model.parameters(), *model.buffers()], state, strict=True):
        own.copy_(kept.view_as(own))


def like(model: nn.Module) -> Tensor:
    """Return the first floating parameter, which has the device and dtype of the network."""
    for each in (*model.parameters(), *model.buffers()):
        if each.is_floating_point():
            return each
    return torch.empty(0)


def state_of(model: Copies | Alone, place: int) -> list[Tensor]:
    """Return the parameters and buffers of one copy of the network, copied to the CPU."""
    own = isinstance(model, Copies)
    values = (each[place] if own else each for each in (*model.parameters(), *model.buffers()))
    return [each.detach().to("cpu", copy=True) for each in values]
