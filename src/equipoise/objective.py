"""A loss as a module: class weights and schedules that move, save and load with the model."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from equipoise import linear
from equipoise.losses.base import Loss, Sum
from equipoise.reduction import IGNORE_INDEX, Batch, check_reduction, read
from equipoise.rows import LogOdds, dense
from equipoise.schedules import Schedule


@final
class Objective(nn.Module):
    """A loss with its reduction, class weights and schedules, as a module.

    Call it like a criterion, then call `step` after each optimiser step. What changes in training lives in
    buffers, float32 whatever the model's dtype: it follows `.to()`, is saved in the `state_dict` (which
    resumes in the middle of a schedule exactly), and changes without recompiling.

    A schedule is addressed by the option's name, `"gamma"`; by the loss and the option, `"Focal.gamma"`,
    where several terms of a sum have that option; or by the loss alone, `"Entropy"`, for the coefficient of a
    term. Where a sum has a loss twice, its terms are `"Entropy[0]"` and `"Entropy[1]"`.

    Args:
        loss: The loss.
        weight: (C,) class weights.
        ignore_index: As in `Loss.__call__`.
        reduction: "mean", "sum" or "none".
        schedules: Addresses and schedules of the values that change.

    Shapes:
        See `Loss.__call__`.

    Raises:
        TypeError: If loss is not a loss or a schedule not a schedule.
        ValueError: If an address fits nothing or several things, or a schedule leaves the range of its
            option; for a range that depends on the number of classes, at the first call.

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
        reduction: str = "mean",
        schedules: Mapping[str, Schedule] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(loss, Loss):
            raise TypeError(f"loss must be a loss of equipoise, got {loss!r}; for example CrossEntropy()")
        check_reduction(reduction)
        self.loss = loss
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.schedules = dict(schedules or {})
        self.steps = 0
        self._sizes: set[int] = set()
        self.register_buffer("weight", None if weight is None else torch.as_tensor(weight))
        self._places = {name: _place(loss, name) for name in self.schedules}
        if len(set(self._places.values())) < len(self._places):
            raise ValueError(
                f"schedules must each have a value of their own, got {', '.join(self.schedules)}"
            )
        for name, schedule in self.schedules.items():
            if not isinstance(schedule, Schedule):
                raise TypeError(
                    f"schedules[{name!r}] must be a schedule, got {schedule!r}; for one value use Constant"
                )
            for bound in schedule.bounds():
                _put(loss, self._places[name], bound)  # raises where the option would not take the value
            self.register_buffer(_buffer(name), torch.tensor(schedule(0), dtype=torch.float32))
        if self._follows:
            self.register_buffer("target_prob", torch.tensor(0.0, dtype=torch.float32))

    def forward(self, logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss of logits against targets; see `Loss.__call__`.

        Args:
            logits: (C,), (N, C) or (N, C, d1, ...).
            target: Class indices or probabilities; None for penalties alone.
        """
        loss = self._in_force()
        if self._follows and self.training:
            self._look(logits, target)
        value = loss(
            logits, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )
        self._check(logits.shape[1 if logits.ndim > 1 else 0])
        return value

    def linear(
        self,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor | None = None,
        bias: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the loss of the logits of a linear layer, without holding them; see `Loss.linear`.

        A schedule that follows the model's confidence makes the logits once more.

        Args:
            hidden: (..., D).
            weight: (V, D) of the layer; the class weights are the objective's own.
            target: (...) class indices.
            bias: (V,).
            options: As for `Loss.linear`.

        Raises:
            TypeError: As `Loss.linear`.
            ValueError: As `Loss.linear`.
        """
        if self._follows and self.training:
            self._look_at_rows(hidden, weight, target, bias, options)
        given = {"class_weight": self.weight, "ignore_index": self.ignore_index, "reduction": self.reduction}
        value = self._in_force().linear(hidden, weight, target, bias, **{**given, **options})
        self._check(len(weight))
        return value

    def step(self) -> None:
        """Advance every schedule by one step; call it after the optimiser's."""
        self.steps += 1
        self._fill()

    def scheduled(self) -> dict[str, float]:
        """Return the scheduled values in force."""
        return {name: float(f"{getattr(self, _buffer(name)).item():.7g}") for name in self.schedules}

    def get_extra_state(self) -> Tensor:
        """Return the step, for the state dict."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the step."""
        self.steps = int(state)

    def extra_repr(self) -> str:
        """Return the loss and what changes in it."""
        return ", ".join(
            [repr(self.loss), *(f"{name}: {schedule!r}" for name, schedule in self.schedules.items())]
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model, but keep scheduled values in float32: another dtype would change them."""
        before = {name: self.get_buffer(name) for name in self._values()}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            setattr(self, name, buffer.to(self.get_buffer(name).device))
        return self

    def _values(self) -> list[str]:
        return [_buffer(name) for name in self.schedules] + ["target_prob"] * self._follows

    @property
    def _follows(self) -> bool:
        return any(schedule.reads == "target_prob" for schedule in self.schedules.values())

    def _in_force(self) -> Loss:
        """Return the loss with the scheduled values in their places."""
        loss = self.loss
        for name, place in self._places.items():
            loss = _put(loss, place, self.get_buffer(_buffer(name)))
        return loss

    def _check(self, classes: int) -> None:
        """Raise, once per number of classes, where a schedule leaves a range that depends on that number."""
        if not self.schedules or classes in self._sizes:
            return
        row, target = torch.zeros(1, classes), torch.zeros(1, dtype=torch.long)
        for name, schedule in self.schedules.items():
            for bound in schedule.bounds():
                _put(self.loss, self._places[name], bound)(row, target)
        if not torch.compiler.is_compiling():  # a trace would be guarded by what it changes, and made again
            self._sizes.add(classes)

    def _fill(self) -> None:
        for name, schedule in self.schedules.items():
            shown = self.get_buffer("target_prob").item() if schedule.reads == "target_prob" else self.steps
            getattr(self, _buffer(name)).fill_(schedule(shown))

    @torch.no_grad()
    def _look(self, logits: Tensor, target: Tensor | None) -> None:
        """Note the mean target probability of a batch; one in which no row counts says nothing."""
        if target is None:
            raise ValueError("target must be given where a schedule follows its probability, got None")
        self._note(_target_prob(read(logits, target, self.weight, self.ignore_index)))

    @torch.no_grad()
    def _look_at_rows(
        self,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor | None,
        bias: Tensor | None,
        options: dict[str, Any],
    ) -> None:
        """Note the same of the logits of a linear layer."""
        if target is None:
            raise ValueError("target must be given where a schedule follows its probability, got None")
        head = ("logit_scale", "softcap", "lora", "block_bytes", "backend")
        given = {"ignore_index": self.ignore_index, **options}
        passed = {name: given[name] for name in ("ignore_index", *head) if name in given}
        row = linear.rows(hidden, weight, target, bias, stats=[LogOdds()], **passed)
        kept = target.reshape(-1) != given["ignore_index"]
        self._note(torch.where(kept, row.log_odds().sigmoid(), 0.0).sum() / kept.sum())

    def _note(self, seen: Tensor) -> None:
        shown = self.get_buffer("target_prob")
        shown.copy_(torch.where(seen.isnan(), shown, seen))


def _target_prob(batch: Batch) -> Tensor:
    if batch.soft is not None:
        return (batch.soft * batch.logits.softmax(1)).sum(1).mean()
    probs = dense(batch.logits, batch.target).log_odds().sigmoid()
    kept = torch.ones_like(probs, dtype=torch.bool) if batch.kept is None else batch.kept
    return torch.where(kept, probs, 0.0).sum() / kept.sum()


def _buffer(name: str) -> str:
    return f"scheduled_{name.replace('.', '_')}"


def _place(loss: Loss, name: str) -> tuple[int, str | None]:
    """Return the term and the option an address means; no option for the term's coefficient."""
    places: dict[str, tuple[int, str | None]] = {}
    terms = [term for _, term in loss.terms()]
    kinds = [type(term).__name__ for term in terms]
    short: dict[str, list[str]] = {}
    for index, (term, kind) in enumerate(zip(terms, kinds, strict=True)):
        label = kind if kinds.count(kind) == 1 else f"{kind}[{kinds[:index].count(kind)}]"
        if isinstance(loss, Sum):
            places[label] = (index, None)
        for option in fields(term):  # pyright: ignore[reportArgumentType]
            if isinstance(getattr(term, option.name), (int, float)):
                places[f"{label}.{option.name}"] = (index, option.name)
                short.setdefault(option.name, []).append(f"{label}.{option.name}")
    for option, full in short.items():
        if len(full) == 1:
            places[option] = places[full[0]]
    if name in short and name not in places:
        raise ValueError(f"schedules[{name!r}] must say which of {', '.join(short[name])} it means")
    if name not in places:
        raise ValueError(
            f"schedules[{name!r}] must name a value of {loss!r}, one of "
            f"{', '.join(places) or 'none, it has no numbers'}"
        )
    return places[name]


def _put(loss: Loss, place: tuple[int, str | None], value: Any) -> Loss:
    """Return the loss with another value in a place."""
    index, option = place
    if not isinstance(loss, Sum):
        assert option is not None
        return replace(loss, **{option: value})  # pyright: ignore[reportArgumentType, reportReturnType, reportCallIssue]
    parts = list(loss.parts)
    coefficient, term = parts[index]
    parts[index] = (value, term) if option is None else (coefficient, _put(term, (0, option), value))
    return Sum(tuple(parts))
