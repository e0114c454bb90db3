"""Weight, bias and LoRA of a language model's head, and `DeferredLogits`, which are never materialised."""

import sys
from typing import Any, NoReturn, final

import torch
from torch import Tensor, nn

from equipoise import linear

Parts = tuple[Tensor, Tensor | None, linear.Lora | None]


class DeferredLogitsError(NotImplementedError, AttributeError):
    """An attribute of `DeferredLogits` was used; as this is an AttributeError, `hasattr` returns False."""


@final
class DeferredLogits:
    r"""Hidden states in place of the logits :math:`s \tanh(a z / s)`, or a z without a cap; z is the head's.

    It records the scale and the soft cap that an architecture applies between head and loss. It has the
    attributes that wrappers of models use of every output: shape, dtype, device, `to` and `float`. Any other
    use raises.

    Args:
        hidden: (..., D), the input of the head.
        classes: C, the size of the last dimension of the logits.
        scale: a.
        softcap: s.
    """

    # No dataclass: FSDP searches dataclasses for tensors, and would warn that hidden states are a view.

    def __init__(
        self, hidden: Tensor, classes: int, scale: float = 1.0, softcap: float | None = None
    ) -> None:
        self.hidden = hidden
        self.classes = classes
        self.scale = scale
        self.softcap = softcap

    @property
    def shape(self) -> torch.Size:
        """The shape (..., C) of the logits."""
        return torch.Size((*self.hidden.shape[:-1], self.classes))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the loss: float32 at least."""
        return torch.promote_types(self.hidden.dtype, torch.float32)

    @property
    def device(self) -> torch.device:
        """The device of the hidden states."""
        return self.hidden.device

    def to(self, *args: Any, **kwargs: Any) -> "DeferredLogits":
        """Return the logits on another device; a cast to half precision raises, as it would round them."""
        wanted = torch.empty(0, dtype=self.dtype, device=self.device).to(*args, **kwargs)
        if wanted.dtype not in (self.dtype, torch.float32):
            _refuse(f"cast to {wanted.dtype}")
        return DeferredLogits(self.hidden.to(wanted.device), self.classes, self.scale, self.softcap)

    def __mul__(self, factor: Any) -> "DeferredLogits":
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            _refuse(f"multiplied by a {type(factor).__name__}")
        if self.softcap is None:
            return DeferredLogits(self.hidden, self.classes, self.scale * factor)
        if factor <= 0:
            _refuse(f"multiplied by {factor} after tanh")
        return DeferredLogits(self.hidden, self.classes, self.scale * factor, self.softcap * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> "DeferredLogits":
        if isinstance(divisor, bool) or not isinstance(divisor, (int, float)):
            _refuse(f"divided by a {type(divisor).__name__}")
        return self * (1 / divisor)

    def tanh(self) -> "DeferredLogits":
        """Set the soft cap to 1."""
        if self.softcap is not None:
            _refuse("capped twice")
        return DeferredLogits(self.hidden, self.classes, self.scale, 1.0)

    def float(self) -> "DeferredLogits":
        """Return itself: the loss is computed in float32 at least."""
        return self

    def contiguous(self) -> "DeferredLogits":
        """Return itself."""
        return self

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.tanh and len(args) == 1 and not kwargs:
            return args[0].tanh()
        _refuse(f"passed to {getattr(function, '__name__', function)}", "torch")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        _refuse(f"asked for .{name}")

    def __getitem__(self, key: Any) -> NoReturn:
        _refuse(f"indexed by {key}")

    def __add__(self, other: Any) -> NoReturn:
        _refuse(f"added to a {type(other).__name__}")

    __radd__ = __add__

    def __sub__(self, other: Any) -> NoReturn:
        self.__add__(other)

    def __rsub__(self, other: Any) -> NoReturn:
        self.__add__(other)


def _refuse(what: str, *passed_over: str) -> NoReturn:
    raise DeferredLogitsError(
        "logits of a fused head may only be scaled by a number and soft-capped before model.loss_function, "
        f"got logits {what} by {caller(*passed_over)}; "
        "for this architecture use compute_loss_func, and wrap a model in adapters before fusing it"
    )


def caller(*passed_over: str) -> str:
    """Return the name of the innermost function on the stack outside this package and the given packages."""
    frame = sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("equipoise", *passed_over):
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"


def place(head: nn.Module) -> str:
    """Return the name of the attribute with the head's own forward method; Accelerate's hooks rename it."""
    return "_old_forward" if hasattr(head, "_hf_hook") else "forward"


def parts(head: Any) -> Parts:
    """Return the current weight, bias and LoRA of a head; raise if it is anything but linear and LoRA."""
    if hasattr(head, "modules_to_save"):  # peft's copy of a layer without LoRA
        active = head.active_adapters
        plain = head.disable_adapters or not active
        return parts(head.original_module if plain else head.modules_to_save[active[0]])
    if hasattr(head, "lora_A"):
        return (*parts(head.base_layer)[:2], _lora(head))
    if type(head).forward is not nn.Linear.forward:
        raise TypeError(
            "the head must be a torch.nn.Linear, or LoRA of one, got "
            f"{_path(head)}; leave the head out when the model is quantised or given adapters, or use "
            "compute_loss_func"
        )
    return head.weight, head.bias, None


def _path(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _lora(head: Any) -> linear.Lora | None:
    """Return the one active LoRA of a head, in the dtype of its weight."""
    active = [name for name in head.active_adapters if name in head.lora_A]
    if head.disable_adapters or head.merged or not active:
        return None
    (name, *others) = active
    dropout = head.lora_dropout[name]
    reasons = {
        f"{len(active)} adapters": bool(others),
        f"a {_path(head)}": not isinstance(head.lora_A[name], nn.Linear),
        "lora_bias": head.lora_bias.get(name),
        f"the variant {type(head.lora_variant.get(name)).__name__}": name in head.lora_variant,
        f"lora_dropout={getattr(dropout, 'p', 0)}": not isinstance(dropout, nn.Identity),
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ValueError(
            f"the LoRA of the head must be one plain adapter without dropout, got {found[0]}; "
            "change that or leave the head out of target_modules"
        )
    dtype = head.base_layer.weight.dtype
    return head.lora_A[name].weight.to(dtype), head.lora_B[name].weight.to(dtype), head.scaling[name]
