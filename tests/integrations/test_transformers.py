"""transformers' Trainer and models with an objective: the same numbers as from whole logits."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

import transformers as hf
from transformers import Trainer

from equipoise import Objective
from equipoise.integrations.transformers import compute_loss_func, fuse_lm_head
from equipoise.losses import CrossEntropy
from support.causal_models import ADAPTERS, ARCHITECTURES, V, batch, lora, make
from support.trained_models import LOSS, arguments, dense


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


def check_fused(model: Any, base: Any = None, router: float = 0.0) -> None:
    """Compare loss and gradients with those of whole logits."""
    tokens, labels = batch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    expected = dense(model, tokens, labels)
    if router:
        expected = expected + router * model(input_ids=tokens).aux_loss
    expected.backward()
    slopes = gradients(model)
    keys = list(model.state_dict())
    fuse_lm_head(model, LOSS)
    output = model(input_ids=tokens, labels=labels)
    output.loss.backward()
    assert output.logits is None
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=0)
    found = gradients(model)
    assert found.keys() == slopes.keys()
    for name, slope in slopes.items():
        torch.testing.assert_close(found[name], slope, rtol=1e-5, atol=1e-6 * float(slope.abs().max()))
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_fused_model_has_the_loss_and_gradients_of_whole_logits(name: str) -> None:
    model = make(name)
    check_fused(model, router=model.config.router_aux_loss_coef if "router" in name else 0.0)


@ADAPTERS
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's
def test_adapters(options: dict[str, Any]) -> None:
    """A fused model with adapters has the loss and gradients of a plain one, and so with them disabled."""
    check_fused(model := lora(**options))
    tokens, labels = batch()
    with model.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=tokens, labels=labels).loss, dense(model, tokens, labels), rtol=1e-6, atol=0
        )


class Widest(TorchDispatchMode):
    """The most rows of a tensor with as many columns as the vocabulary, among all that are ever made."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, Tensor) and each.ndim > 0 and each.shape[-1] == V:
                self.rows = max(self.rows, each.numel() // V)
        return made


def widest(folder: Path, model: Any, train: bool) -> int:
    rows = [{"input_ids": tokens, "labels": labels} for tokens, labels in zip(*batch(6, 20), strict=True)]
    trainer = Trainer(model=model, args=arguments(folder, max_steps=1), train_dataset=rows)
    with Widest() as found:
        trainer.train() if train else trainer.evaluate(rows)
    return found.rows


@pytest.mark.parametrize("train", [True, False])
def test_the_logits_are_never_made(train: bool, tmp_path: Path) -> None:
    model = make()
    assert widest(tmp_path, model, train) >= (6 * 20 if train else 5 * 20)  # the plain model's are seen
    fuse_lm_head(model, LOSS, block_bytes=4 * V * 8)
    assert widest(tmp_path, model, train) < 20


def test_a_pass_without_labels_has_logits_and_undo_leaves_nothing(tmp_path: Path) -> None:
    model = make("llama, tied").eval()
    tokens, labels = batch()
    before, attributes = model(input_ids=tokens), set(vars(model)) | set(vars(model.lm_head))
    generated = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3)
    fused = fuse_lm_head(model, LOSS)
    assert model(input_ids=tokens, labels=labels).logits is None
    assert model.lm_head(torch.zeros(2, 16)).shape == (2, V)
    assert torch.equal(model(input_ids=tokens).logits, before.logits)
    again = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3)
    assert torch.equal(again, generated)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = hf.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(input_ids=tokens).logits, before.logits)
    fused.undo()
    assert set(vars(model)) | set(vars(model.lm_head)) == attributes
    assert model(input_ids=tokens, labels=labels).logits is not None


def test_a_copy_has_a_head_of_its_own() -> None:
    model, (tokens, labels) = make(), batch()
    fuse_lm_head(model, LOSS)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.mul_(2)
        for each in (twin, model):
            torch.testing.assert_close(
                each(input_ids=tokens, labels=labels).loss, dense(each, tokens, labels), rtol=1e-6, atol=0
            )


def test_a_pass_that_fails_leaves_no_trace() -> None:
    model, (tokens, labels) = make(), batch()
    fuse_lm_head(model, LOSS)
    with pytest.raises(ValueError, match="target"):
        model(input_ids=tokens, labels=labels[:, 1:])
    assert model.lm_head(torch.zeros(2, 16)).shape == (2, V)
    assert model(input_ids=tokens).logits.shape == (3, 9, V)


def test_shifted_labels_are_taken_as_they_are() -> None:
    model, (tokens, labels) = make(), batch()
    fuse_lm_head(model, LOSS)
    shift = F.pad(labels[:, 1:], (0, 1), value=-100)
    plain = model(input_ids=tokens, labels=labels).loss
    assert torch.equal(model(input_ids=tokens, labels=labels, shift_labels=shift).loss, plain)
    moved = model(input_ids=tokens, labels=labels, shift_labels=shift.roll(1, 0)).loss
    assert (moved - plain).abs() > 1e-4


def test_tuples_and_half_precision() -> None:
    model, (tokens, labels) = make().bfloat16(), batch()
    expected = dense(model, tokens, labels)
    fuse_lm_head(model, LOSS)
    (loss,) = model(input_ids=tokens, labels=labels, return_dict=False, use_cache=False)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.float()(input_ids=tokens, labels=labels).loss
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)


def test_class_weights_are_factors_and_no_part_of_the_count() -> None:
    model, (tokens, labels) = make(), batch()
    objective = Objective(CrossEntropy(), weight=torch.linspace(0.1, 3, V))
    logits, target = model(input_ids=tokens).logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1)
    kept = (target != -100).sum()
    expected = objective(logits, target, reduction="sum") / kept
    fuse_lm_head(model, objective)
    for count in (None, kept, int(kept)):
        given = {} if count is None else {"num_items_in_batch": count}
        torch.testing.assert_close(model(input_ids=tokens, labels=labels, **given).loss, expected)
        found = compute_loss_func(objective, model)({"logits": model(input_ids=tokens).logits}, labels, count)
        torch.testing.assert_close(found, expected)
    assert (objective(logits, target) - expected).abs() > 0.1  # torch's mean divides by the weights
