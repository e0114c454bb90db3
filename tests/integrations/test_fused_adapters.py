"""Fused models with adapters, on the head and off it, and heads that are no plain layer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

import peft
from transformers import Trainer, TrainingArguments

from equipoise.integrations.transformers import fuse_lm_head
from equipoise.losses import CrossEntropy
from support.causal_models import ADAPTERS, batch, lora, make
from support.trainer_options import OPTIONS

pytestmark = pytest.mark.filterwarnings(  # peft warns so
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
LOSS = CrossEntropy()


def quantised() -> Any:
    package = getattr(torch.ao, "quanti" + "zation")  # these names are in American English
    return getattr(package, "quanti" + "ze_dynamic")(make(), {nn.Linear})


HEADS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "IA3": (
        lambda: peft.get_peft_model(
            make(), peft.IA3Config(target_modules=["lm_head"], feedforward_modules=[])
        ),
        TypeError,
        r"peft\.tuners\.ia3\.layer\.Linear",
    ),
    "LoHa": (
        lambda: peft.get_peft_model(make(), peft.LoHaConfig(r=2, target_modules=["lm_head"])),
        TypeError,
        r"peft\.tuners\.loha\.layer\.Linear",
    ),
    "AdaLoRA": (
        lambda: peft.get_peft_model(
            make(), peft.AdaLoraConfig(target_modules=["lm_head"], init_r=4, target_r=2, total_step=9)
        ),
        ValueError,
        r"a peft\.tuners\.adalora\.layer\.SVDLinear",
    ),
    "trained tokens": (
        lambda: peft.get_peft_model(
            make("llama, tied"), peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3])
        ),
        TypeError,
        r"peft\.utils\.other\.TrainableTokensWrapper",
    ),
    "quantised": (
        quantised,
        TypeError,
        r"torch\.ao\.nn\.\w*\.dynamic\.modules\.linear\.Linear",
    ),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.filterwarnings("ignore:torch.ao.quanti.ation is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quanti.e_per_tensor, .* are deprecated:UserWarning")
def test_heads_that_are_no_plain_layer_are_named_in_full(kind: str) -> None:
    model, error, name = HEADS[kind]
    with pytest.raises(error, match=rf"^the .*head must be .*, got {name}; .*leave the head out"):
        fuse_lm_head(model(), LOSS)


OFF_THE_HEAD: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "IA3": lambda: peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    "LoHa": lambda: peft.LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "VeRA": lambda: peft.VeraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", OFF_THE_HEAD)
def test_adapters_off_the_head_of_every_kind(kind: str) -> None:
    model, (tokens, labels) = peft.get_peft_model(make(), OFF_THE_HEAD[kind]()), batch()
    expected = model(input_ids=tokens, labels=labels).loss
    fuse_lm_head(model, LOSS)
    output = model(input_ids=tokens, labels=labels)
    assert output.logits is None
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@ADAPTERS
def test_adapters_in_bfloat16(options: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    """Losses of a fused model with adapters in bfloat16 are as near to float32 as those of a plain one."""

    def losses(fused: bool, half: bool) -> Tensor:
        model = lora(**options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        model.to(dtype if half else torch.float32)
        if fused:
            fuse_lm_head(model, LOSS)
        settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 0.05}
        args = TrainingArguments(output_dir=str(tmp_path), bf16=half, **settings, **OPTIONS)
        rows = [{"input_ids": a, "labels": b} for a, b in zip(*batch(8, 12), strict=True)]
        trainer = Trainer(model=model, args=args, train_dataset=rows)
        trainer.train()
        return torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])

    truth, plain, fused = losses(False, False), losses(False, True), losses(True, True)
    # Measured: 0.8 to 1 times.
    assert (fused - truth).abs().max() <= 1.5 * (plain - truth).abs().max()
