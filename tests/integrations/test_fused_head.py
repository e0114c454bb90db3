"""A fused head under what wraps models: offloading, casts, pickling, direct calls; and `undo`."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

import accelerate
import peft
import transformers as hf
from accelerate.hooks import remove_hook_from_submodules
from accelerate.state import AcceleratorState
from accelerate.utils import convert_to_fp32, find_device, send_to_device

from equipoise.integrations.transformers import fuse_lm_head
from equipoise.losses import CrossEntropy
from support.causal_models import ARCHITECTURES, SMALL, V, batch, lora, make

pytestmark = pytest.mark.filterwarnings(  # peft warns so
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
LOSS = CrossEntropy()


def intercept(model: Any, act: Callable[[Any], Any]) -> None:
    """Let a wrapper act on the output of the model's own forward pass, as Accelerate's do."""
    forward = model.forward
    model.forward = lambda *args, **options: act(forward(*args, **options))


def reloaded(output: Any) -> Any:
    stream = io.BytesIO()
    torch.save(output, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


def unflattened(output: Any) -> Any:
    leaves, spec = pytree.tree_flatten(output)
    return pytree.tree_unflatten(leaves, spec)


# What wrappers do to an output.
ACTS: dict[str, Callable[[Any], Any]] = {
    "convert_to_fp32": convert_to_fp32,
    "send_to_device": lambda output: send_to_device(output, torch.device("cpu"), non_blocking=True),
    "find_device": lambda output: output if find_device(output).type == "cpu" else None,
    "cast": lambda output: pytree.tree_map(lambda each: each.to(torch.float32), output),
    "cast as another": lambda output: pytree.tree_map(lambda each: each.to(torch.zeros(1)), output),
    "float": lambda output: pytree.tree_map(lambda each: each.float(), output),
    "by dtype": lambda output: pytree.tree_map(
        lambda each: each.float() if each.dtype == torch.bfloat16 else each, output
    ),
    "unflatten": unflattened,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda output: pickle.loads(pickle.dumps(output)),
    "save": reloaded,
}


@pytest.mark.parametrize("name", ACTS)
@torch.no_grad()
def test_wrappers_of_outputs_see_what_they_do_without_fusing(name: str) -> None:
    """Wrappers that read the outputs see the same values as without fusing."""
    (tokens, labels), losses = batch(), []
    for fused in (False, True):
        model = make("gemma2, capped")
        if fused:
            fuse_lm_head(model, LOSS)
        intercept(model, ACTS[name])
        output = model(input_ids=tokens, labels=labels, use_cache=False)
        losses.append(output.loss.item())
        assert (output.logits is None) == fused
        after = ACTS[name](output)
        assert type(after) is type(output)
        assert after.loss == output.loss
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_stands_for_the_logits_answers_as_the_logits_of_the_loss_do(dtype: torch.dtype) -> None:
    """The placeholder of the logits has the shape, dtype and device of the logits."""
    model, (tokens, labels), seen = make().to(dtype), batch(), []
    fuse_lm_head(model, LOSS)
    intercept(model, lambda output: seen.append(output.logits) or output)
    model(input_ids=tokens, labels=labels)
    (logits,) = seen
    assert logits.shape == (3, 9, V)
    assert logits.dtype == torch.promote_types(dtype, torch.float32)
    assert logits.device == tokens.device
    assert logits.float().dtype == logits.to(torch.float32).dtype == logits.to("cpu").dtype == logits.dtype
    assert logits.to("meta").device.type == "meta"
    assert logits.to("meta").shape == logits.shape
    for name in ("detach", "cuda", "view", "requires_grad", "anything", "__len__", "__dlpack__"):
        assert not hasattr(logits, name)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda z: z.detach(), "asked for .detach by .*cut"),
        (lambda z: z.to(torch.bfloat16), "cast to torch.bfloat16 by .*cut"),
        (lambda z: torch.cat([z, z]), "passed to cat by .*cut"),
        (lambda z: torch.log_softmax(z, -1), "passed to log_softmax by .*cut"),
        (lambda z: nn.functional.softmax(z, -1), "passed to softmax by .*cut"),
        (lambda z: z[..., :2], "indexed by .* by .*cut"),
    ],
)
def test_what_a_wrapper_may_not_do_names_the_wrapper(act: Callable[[Any], Any], words: str) -> None:
    """A wrapper that needs the logits gets an error with its name."""

    def cut(output: Any) -> Any:
        return act(output.logits)

    act.__qualname__ = "cut"
    act.__code__ = act.__code__.replace(co_qualname="cut")
    model, (tokens, labels) = make(), batch()
    fuse_lm_head(model, LOSS)
    intercept(model, cut)
    with pytest.raises(
        NotImplementedError, match=f"got logits {words}; for this architecture use compute_loss_"
    ):
        model(input_ids=tokens, labels=labels)


def offloaded(how: str, model: Any, folder: Path) -> Any:
    if how == "bf16":
        AcceleratorState._reset_state()
        return accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
    if how == "cpu_offload":
        return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    if how == "disk_offload":
        return accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))
    where = {"model": "cpu", "lm_head": "disk"}
    return accelerate.dispatch_model(
        model, where, main_device="cpu", offload_dir=str(folder), force_hooks=True
    )


@pytest.mark.parametrize("first", ["fused", "wrapped"])
@pytest.mark.parametrize("how", ["bf16", "cpu_offload", "disk_offload", "dispatch_model"])
def test_wrappers_of_models(how: str, first: str, tmp_path: Path) -> None:
    """A fused model gives the plain loss under each wrapper, whichever comes first, until `undo`."""
    tokens, labels = batch()
    with torch.no_grad():
        plain = offloaded(how, make().eval(), tmp_path / "plain")(input_ids=tokens, labels=labels)
        model = make().eval()
        if first == "fused":
            fused = fuse_lm_head(model, LOSS)
            wrapped = offloaded(how, model, tmp_path / "fused")
        else:
            wrapped = offloaded(how, model, tmp_path / "fused")
            fused = fuse_lm_head(model, LOSS)
        output = wrapped(input_ids=tokens, labels=labels)
        torch.testing.assert_close(output.loss, plain.loss, rtol=1e-6, atol=0)
        assert output.logits is None
        assert output.token_statistics.shape == (3, 9, 4)
        assert torch.equal(wrapped(input_ids=tokens).logits, plain.logits)
        fused.undo()
        assert torch.equal(wrapped(input_ids=tokens, labels=labels).logits, plain.logits)
        remove_hook_from_submodules(model)
        assert model(input_ids=tokens, labels=labels).logits.shape == (3, 9, V)
    fuse_lm_head(model, LOSS)  # nothing is left that would refuse it


def test_a_head_of_which_a_part_is_offloaded_is_refused() -> None:
    """A head with a part on another device is refused."""
    model, (tokens, labels) = lora(target_modules=["lm_head"]), batch()
    fuse_lm_head(model, LOSS)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(
        ValueError, match=r"^the head must have its weight in memory, got .* meta device; offload"
    ):
        model(input_ids=tokens, labels=labels)


@pytest.mark.parametrize("train", [False, True])
def test_outputs_pickle_and_copy(train: bool) -> None:
    """Outputs of a fused model can be pickled and copied."""

    class PlainDict(hf.LlamaForCausalLM):
        def forward(self, *args: Any, **options: Any) -> Any:
            return dict(super().forward(*args, **options))

    tokens, labels = batch()
    for model in (make(), PlainDict(hf.LlamaConfig(**SMALL))):
        fuse_lm_head(model.train(train), LOSS)
        with torch.no_grad():
            output = model(input_ids=tokens, labels=labels, use_cache=False)
        for name in ("unflatten", "copy", "deepcopy", "pickle", "save"):
            other = ACTS[name](output)
            assert type(other) is type(output)
            assert list(other) == list(output)
            assert other["loss"] == output["loss"]
            assert train or torch.equal(other["token_statistics"], output["token_statistics"])


def test_a_fused_model_pickles() -> None:
    """A fused model can be pickled, and its copy has its own head."""
    model, (tokens, labels) = make(), batch()
    fuse_lm_head(model, LOSS)
    loaded = reloaded(model)
    with torch.no_grad():
        loaded.lm_head.weight.mul_(2)
        output = loaded(input_ids=tokens, labels=labels)
        assert output.logits is None
        assert output.loss != model(input_ids=tokens, labels=labels).loss


# Undo


def contents(model: nn.Module) -> dict[str, Any]:
    """Return every attribute of every module, in dictionaries of their own; and the configuration."""

    def inside(value: Any) -> Any:
        return {key: inside(each) for key, each in value.items()} if isinstance(value, dict) else value

    found = {name: inside(vars(module)) for name, module in model.named_modules()}
    return found | {"config": copy.deepcopy(model.config.to_dict())}


def differing(one: Any, other: Any) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        missing = [repr(name) for name in one.keys() ^ other.keys()]
        return missing + [
            f"{name}/{path}"
            for name in one.keys() & other.keys()
            for path in differing(one[name], other[name])
        ]
    return [] if one is other or (not isinstance(one, Tensor) and one == other) else [repr(other)]


ADAPTED: dict[str, Callable[[], Any]] = {
    "lora": lambda: lora(target_modules=["q_proj", "lm_head"]),
    "whole head": lambda: lora(target_modules=["q_proj"], modules_to_save=["lm_head"]),
}


@pytest.mark.parametrize("name", [*ARCHITECTURES, *ADAPTED])
def test_undo_gives_back_every_attribute(name: str) -> None:
    """`undo` restores every attribute of the model."""
    model, (tokens, labels) = (ADAPTED[name]() if name in ADAPTED else make(name)), batch()
    model(input_ids=tokens, labels=labels)  # in which some models make hooks of their own
    before = contents(model)
    fused = fuse_lm_head(model, LOSS)
    assert differing(before, contents(model))
    model(input_ids=tokens, labels=labels).loss.backward()
    model.zero_grad()
    for _ in range(2):
        fused.undo()
        assert differing(before, contents(model)) == []


def test_undo_gives_back_a_loss_function_and_type_that_somebody_set() -> None:
    """`undo` restores a loss function and loss type that were set before."""
    model = make("gpt2")
    model.loss_function, model.loss_type = len, "ForCausalLMLoss"
    before = contents(model)
    fuse_lm_head(model, LOSS).undo()
    assert differing(before, contents(model)) == []
    assert model.loss_function is len


def test_undo_takes_out_its_own_alone() -> None:
    """`undo` of an earlier call does not undo a later one."""
    model, (tokens, labels) = make(), batch()
    first = fuse_lm_head(model, LOSS)
    first.undo()
    fuse_lm_head(model, 2 * LOSS)
    first.undo()
    first.undo()
    output = model(input_ids=tokens, labels=labels)
    assert output.logits is None
    torch.testing.assert_close(output.loss, 2 * make()(input_ids=tokens, labels=labels).loss)


# Past the hooks


@pytest.mark.parametrize("kind", ["model.forward", "AdaLoRA"])
def test_a_pass_without_the_hooks_says_so(kind: str) -> None:
    """A forward pass that skips the hooks raises an error."""
    model, (tokens, labels) = make(), batch()
    if kind == "AdaLoRA":
        options = {"init_r": 4, "target_r": 2, "total_step": 9, "task_type": "CAUSAL_LM"}
        model = peft.get_peft_model(model, peft.AdaLoraConfig(target_modules=["q_proj"], **options))
    fuse_lm_head(model, LOSS)
    call, culprit = (model, "peft") if kind == "AdaLoRA" else (model.forward, "test_fused_head")
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=rf"^a fused model must be called as .* from \S*{culprit}\S*, .*; call"
        ):
            call(input_ids=tokens, labels=labels)
    if kind == "model.forward":
        assert call(input_ids=tokens).logits.shape == (3, 9, V)
        assert model(input_ids=tokens, labels=labels).logits is None


@pytest.mark.parametrize("kind", ["compiled", "replicated"])
def test_a_model_that_is_wrapped_already_is_refused(kind: str) -> None:
    """A model that is compiled or wrapped is refused."""
    wrapped = torch.compile(make(), backend="eager") if kind == "compiled" else nn.DataParallel(make())
    with pytest.raises(
        ValueError, match=r"^model must be a causal .*, got .*; .* fuse a model before it is comp"
    ):
        fuse_lm_head(wrapped, LOSS)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generation_within_autocast(dtype: torch.dtype, attention: str) -> None:
    """A fused model generates the tokens of a plain one."""
    tokens, _ = batch()
    found = []
    for fused in (False, True):
        model = make().eval()
        model.set_attn_implementation(attention)
        if fused:
            fuse_lm_head(model, LOSS)
        with torch.autocast("cpu", dtype=dtype):
            options = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 3, "do_sample": False}
            found.append(model.generate(tokens, **options))
    assert torch.equal(*found)
