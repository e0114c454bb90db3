"""`Objective`, a loss as a module, with class weights and schedules that are part of the state dict."""

from collections.abc import Callable, Mapping
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from equipoise import parameters
from equipoise._batch import IGNORE_INDEX, Reduction, check_reduction
from equipoise.losses.base import Loss, check_loss
from equipoise.parsing import from_text, nearest, schedule_from_text, to_text
from equipoise.schedules import Schedule

KEYS = ("loss", "weight", "ignore_index", "reduction", "schedules")


@final
class Objective(nn.Module):
    """A loss with its reduction, class weights and schedules, as a module.

    Call it like a criterion, and call `step` after each optimiser step. Scheduled values are buffers, float32
    for every dtype of the model: `.to()` moves them, `state_dict` saves them (a run resumes exactly, also in
    the middle of a schedule), and a new value does not recompile.

    The path of a schedule is the option's name, `"gamma"`; the loss and the option, `"Focal.gamma"`,
    if several terms of a sum have that option; or the loss alone, `"Entropy"`, for the coefficient of a
    term. If a sum has a loss twice, its terms are `"Entropy[0]"` and `"Entropy[1]"`.

    `from_config` and `to_config` convert it from and to plain data.

    Args:
        loss: The loss.
        weight: (C,) class weights.
        ignore_index: As in `Loss.__call__`.
        reduction: "mean", "sum" or "none".
        schedules: Maps paths to schedules.

    Shapes:
        See `Loss.__call__`.

    Raises:
        TypeError: If loss is not a loss or a schedule not a schedule.
        ValueError: If a path matches no option or several, or a schedule leaves the range of its option; at
            the first call, if the range depends on the number of classes.

    Example:
        >>> from equipoise.losses import GammaCrossEntropy
        >>> from equipoise.schedules import Linear
        >>> objective = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.5, steps=100)})
        >>> loss = objective(torch.zeros(4, 10), torch.arange(4))
        >>> objective.step()
        >>> objective.scheduled()
        {'gamma': 0.005}
    """

    weight: Tensor | None

    def __init__(
        self,
        loss: Loss,
        *,
        weight: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        reduction: Reduction = "mean",
        schedules: Mapping[str, Schedule] | None = None,
    ) -> None:
        super().__init__()
        check_loss("loss", loss, "a loss of equipoise")
        check_reduction(reduction)
        self.loss = loss
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.schedules: dict[str, Schedule] = dict(schedules or {})
        self.steps: float = 0
        self._sizes: set[int] = set()
        self.register_buffer("weight", None if weight is None else torch.as_tensor(weight))
        self._places = {
            name: parameters.resolve(loss, name, f"schedules[{name!r}]") for name in self.schedules
        }
        if len(set(self._places.values())) < len(self._places):
            raise ValueError(f"schedules must each set another option, got {', '.join(self.schedules)}")
        for name, schedule in self.schedules.items():
            if not isinstance(schedule, Schedule):
                way = "write a number that does not change in the loss"
                if isinstance(schedule, str | type):
                    way = (
                        "Objective.from_config takes a text"
                        if isinstance(schedule, str)
                        else "make one of it"
                    )
                raise TypeError(f"schedules[{name!r}] must be a schedule, got {schedule!r}; {way}")
            for bound in schedule.bounds():
                parameters.replace(loss, {self._places[name]: bound})  # raises outside its range
            self.register_buffer(_buffer(name), torch.tensor(schedule(0), dtype=torch.float32))

    @classmethod
    def from_config(cls, loss: Loss | str | None = None, **config: Any) -> Self:
        """Make an objective from plain data, such as a dict, TOML or Hydra.

        Args:
            loss: A Python expression as text, which is parsed and never evaluated; or a loss.
            config: The other arguments of `Objective` as plain data: `schedules` maps paths to expressions as
                text, or to schedules; `weight` is a list.

        Raises:
            TypeError: As `Objective`, and if schedules are not a mapping.
            ValueError: As `Objective`; also if a key, or a name in a text, is not known (the message names
                the nearest), or weight is not a list of numbers.

        Example:
            >>> config = {"loss": "Focal() + 0.1 * Entropy()", "schedules": {"gamma": "Linear(2, 0, 9)"}}
            >>> Objective.from_config(**config)
            Objective(Focal(gamma=2.0) + 0.1 * Entropy(), gamma: Linear(start=2, end=0, steps=9))
        """
        for key in config:
            if key not in KEYS:
                raise ValueError(f"config must have only keys it knows, got {key!r}; {nearest(key, KEYS)}")
        if loss is None:
            raise ValueError(
                f"config must have a loss, got {', '.join(config) or 'nothing'}; "
                'for example loss = "CrossEntropy()"'
            )
        if isinstance(loss, Mapping) and "loss" in loss:
            raise TypeError(
                f"loss must be a loss of equipoise or its text, got {loss!r}; write from_config(**config)"
            )
        given: dict[str, Any] = dict(config)
        given["loss"] = from_text(loss, name="loss") if isinstance(loss, str) else loss
        schedules = {} if given.get("schedules") is None else given["schedules"]
        if not isinstance(schedules, Mapping):
            raise TypeError(
                f"schedules must be a mapping, got {schedules!r}; "
                "for example {'gamma': 'Linear(0.0, 0.5, 1000)'}"
            )
        given["schedules"] = {
            key: schedule_from_text(each, name=f"schedules[{key!r}]") if isinstance(each, str) else each
            for key, each in schedules.items()
        }
        if given.get("weight") is not None:
            given["weight"] = _numbers(given["weight"])
        return cls(**given)

    def to_config(self) -> dict[str, Any]:
        """Return the plain data from which `from_config` makes this objective, at step 0.

        The current step and values are in the `state_dict`.

        Returns:
            Strings, numbers, lists and dicts, which JSON and TOML can store.

        Raises:
            ValueError: If the loss or a schedule contains a class or function that is not in the tables, and
                so has no text.

        Numerics:
            Class weights are converted to float32.

        Example:
            >>> from equipoise.losses import Brier
            >>> Objective(Brier(), weight=torch.tensor([1.0, 2.0])).to_config()
            {'loss': 'Brier()', 'ignore_index': -100, 'reduction': 'mean', 'weight': [1.0, 2.0]}
        """
        config: dict[str, Any] = {
            "loss": to_text(self.loss, name="loss"),
            "ignore_index": self.ignore_index,
            "reduction": self.reduction,
        }
        if self.weight is not None:
            config["weight"] = self.weight.tolist()
        if self.schedules:
            config["schedules"] = {
                name: to_text(schedule, name=f"schedules[{name!r}]")
                for name, schedule in self.schedules.items()
            }
        return config

    def forward(
        self,
        logits: Tensor,
        target: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        reduction: Reduction | None = None,
    ) -> Tensor:
        """Return the loss of logits against targets; see `Loss.__call__`.

        Args:
            logits: (C,), (N, C) or (N, C, d1, ...).
            target: Class indices or probabilities; None for penalties.
            sample_weight: Weight of each row, in the shape of the target's classes.
            mask: Bool, True where a class is allowed, (C,) or the shape of the logits.
            reduction: Instead of the objective's own.
        """
        value = self._in_force()(
            logits,
            target,
            weight=self.weight,
            sample_weight=sample_weight,
            mask=mask,
            ignore_index=self.ignore_index,
            reduction=self.reduction if reduction is None else reduction,
        )
        self._check(logits.shape[1 if logits.ndim > 1 else 0])
        return value

    def linear(
        self,
        hidden: Tensor,
        linear_weight: Tensor,
        target: Tensor | None = None,
        *,
        linear_bias: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the loss of the logits of a linear layer, without materialising them; see `Loss.linear`.

        Args:
            hidden: (..., D).
            linear_weight: (V, D), the layer's weight; class weights are those of the objective.
            target: (...) class indices.
            linear_bias: (V,).
            options: As in `Loss.linear`.

        Raises:
            TypeError: As `Loss.linear`.
            ValueError: As `Loss.linear`.
        """
        given = {"weight": self.weight, "ignore_index": self.ignore_index, "reduction": self.reduction}
        value = self._in_force().linear(
            hidden, linear_weight, target, linear_bias=linear_bias, **{**given, **options}
        )
        self._check(len(linear_weight))
        return value

    def step(self) -> None:
        """Advance every schedule by one step; call it after the optimiser's step."""
        self.set_step(self.steps + 1)

    def set_step(self, step: float) -> None:
        """Set every schedule to a step, which may be fractional."""
        self.steps = step
        for name, schedule in self.schedules.items():
            self.get_buffer(_buffer(name)).fill_(schedule(step))

    def scheduled(self) -> dict[str, float]:
        """Return the current scheduled values by path."""
        return {name: float(f"{getattr(self, _buffer(name)).item():.7g}") for name in self.schedules}

    def get_extra_state(self) -> Tensor:
        """Return the step, for the state dict."""
        return torch.tensor(self.steps, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the step."""
        self.steps = state.item()

    def extra_repr(self) -> str:
        """Return the loss and its schedules, as text."""
        return ", ".join(
            [repr(self.loss), *(f"{name}: {schedule!r}" for name, schedule in self.schedules.items())]
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply a function to the buffers, but keep scheduled values in float32: a cast would round them."""
        before = {name: self.get_buffer(name) for name in map(_buffer, self.schedules)}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            setattr(self, name, buffer.to(self.get_buffer(name).device))
        return self

    def _in_force(self) -> Loss:
        """Return the loss with the current scheduled values."""
        values = {place: self.get_buffer(_buffer(name)) for name, place in self._places.items()}
        return parameters.replace(self.loss, values)

    def _check(self, classes: int) -> None:
        """Raise if a schedule leaves a range that depends on the number of classes; checked once each."""
        if not self.schedules or classes in self._sizes:
            return
        row, target = torch.zeros(1, classes), torch.zeros(1, dtype=torch.long)
        for name, schedule in self.schedules.items():
            for bound in schedule.bounds():
                parameters.replace(self.loss, {self._places[name]: bound})(row, target)
        if not torch.compiler.is_compiling():  # a guard on the set would recompile after this line
            self._sizes.add(classes)


def _buffer(name: str) -> str:
    return f"scheduled_{name.replace('.', '_')}"


def _numbers(weight: Any) -> Tensor:
    """Return class weights as a tensor."""
    try:
        return torch.as_tensor(weight if isinstance(weight, Tensor) else list(weight), dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"weight must be a list of numbers, one per class, got {weight!r}") from error
