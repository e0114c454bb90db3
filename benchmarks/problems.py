"""The problems that are timed: a linear layer and a loss, or the loss alone on logits in memory."""

from dataclasses import dataclass, replace
from typing import Self, final

import torch
import torch.nn.functional as F
from torch import Tensor


@final
@dataclass(frozen=True)
class Shape:
    """Size of a problem.

    Args:
        name: How the tables call it.
        rows: N.
        classes: V.
        features: D of the linear layer, or 0 for logits in memory.
    """

    name: str
    rows: int
    classes: int
    features: int = 0

    def __str__(self) -> str:
        if self.name == f"{self.rows} x {self.classes}":
            return self.name
        width = f" D={self.features}" if self.features else ""
        return f"{self.name} (N={self.rows}{width} V={self.classes})"

    def at_most(self, rows: int, classes: int, features: int) -> Self:
        """Return the shape, cut down to these numbers."""
        return replace(
            self,
            rows=min(self.rows, rows),
            classes=min(self.classes, classes),
            features=min(self.features, features),
        )


LINEAR = {
    shape.name: shape
    for shape in (
        Shape("A", rows=2048, features=512, classes=32768),
        Shape("B", rows=4096, features=768, classes=50257),
        Shape("C", rows=65536, features=128, classes=1000),
    )
}
SMALL = tuple(
    Shape(f"{rows} x {classes}", rows, classes)
    for rows, classes in ((32, 10), (128, 10), (128, 1000), (512, 1000), (4096, 1000))
)
HALF = Shape("2048 x 32768", rows=2048, classes=32768)  # in bfloat16
DENSE = (Shape("large", rows=4096, classes=50257), Shape("long", rows=65536, classes=1000))
GPU = Shape("GPU", rows=8192, features=4096, classes=128256)


@final
class Problem:
    """Tensors of a shape: what requires a gradient, and the target.

    Args:
        inputs: (hidden (N, D), weight (V, D)), or the logits (N, V) alone.
        target: (N,) classes.
    """

    def __init__(self, inputs: tuple[Tensor, ...], target: Tensor) -> None:
        self.inputs = tuple(one.detach().requires_grad_() for one in inputs)
        self.target = target
        self._logit_buffer: Tensor | None = None

    @classmethod
    def make(cls, shape: Shape, dtype: torch.dtype, device: str = "cpu", *, peaked: bool = False) -> Self:
        """Return random data with logits of size about 1.

        Args:
            shape: Numbers of rows, features and classes.
            dtype: Of the inputs.
            device: Of the inputs.
            peaked: Whether the target's logit stands about 10 above the others, as late in training.
        """
        generator = torch.Generator(device).manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, device=device)

        rows, classes, features = shape.rows, shape.classes, shape.features
        target = torch.randint(classes, (rows,), generator=generator, device=device)
        if features:
            hidden, weight = normal(rows, features), normal(classes, features).div_(features**0.5)
            if peaked:
                hidden += 10 * weight[target]
            return cls((hidden.to(dtype), weight.to(dtype)), target)
        logits = normal(rows, classes)
        if peaked:
            logits[torch.arange(rows, device=device), target] += 10
        return cls((logits.to(dtype),), target)

    def double(self) -> "Problem":
        """Return the same problem in float64."""
        return Problem(tuple(one.double() for one in self.inputs), self.target)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the inputs."""
        return self.inputs[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return self.inputs[0].device

    @property
    def largest_logit(self) -> float:
        """Largest size of a logit."""
        with torch.no_grad():
            logits = F.linear(*self.inputs) if len(self.inputs) == 2 else self.inputs[0]
            return float(logits.abs().max())

    @property
    def logit_bytes(self) -> int:
        """Bytes of the logits in the dtype of the inputs."""
        classes = self.inputs[-1].shape[0] if len(self.inputs) == 2 else self.inputs[0].shape[1]
        return self.inputs[0].shape[0] * classes * self.inputs[0].element_size()

    @property
    def gradient_bytes(self) -> int:
        """Bytes of the gradients that every contender returns."""
        return sum(one.numel() * one.element_size() for one in self.inputs)

    @property
    def logit_buffer(self) -> Tensor:
        """Memory for all logits, touched before: the bare products need no fresh pages."""
        hidden, weight = self.inputs
        if self._logit_buffer is None:
            self._logit_buffer = hidden.new_zeros(hidden.shape[0], weight.shape[0])
        return self._logit_buffer

    def forget(self) -> None:
        """Drop the gradients, so that each contender allocates its own."""
        for one in self.inputs:
            one.grad = None

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients, None where an input got none."""
        return [one.grad for one in self.inputs]
