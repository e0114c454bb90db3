"""TRL's SFTTrainer with an objective, against its own loss of dynamic fine-tuning."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed", exc_type=ImportError)

from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer
from trl import SFTConfig, SFTTrainer

from equipoise.integrations.transformers import fuse_lm_head, token_metrics
from equipoise.losses import CrossEntropy, GammaCrossEntropy, Reweighted
from equipoise.losses.base import Loss
from equipoise.losses.robust import DFTWeight
from trainer_options import OPTIONS

VOCAB = 31


class ObjectiveSFTTrainer(SFTTrainer):
    """The recipe of docs/transformers.md."""

    compute_loss = Trainer.compute_loss
    prediction_step = Trainer.prediction_step


def model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config)


def train(folder: Path, trainer: type[SFTTrainer], loss: Loss | None, **options: Any) -> Any:
    """Train for three steps of two unlike batches; return losses, parameters and trainer."""
    words = {f"w{i}": i for i in range(VOCAB - 2)} | {"<pad>": VOCAB - 2, "<eos>": VOCAB - 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), pad_token="<pad>", eos_token="<eos>"
    )
    torch.manual_seed(1)
    rows = [
        {
            "input_ids": torch.randint(0, VOCAB - 2, (size,)).tolist(),
            "completion_mask": [0] * 3 + [1] * (size - 3),
        }
        for size in (5, 12, 7, 10, 6, 11, 8, 9, 5, 12, 9, 7)
    ]
    others = {name: options.pop(name) for name in ("peft_config", "compute_metrics") if name in options}
    args = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1.0,
        bf16=False,
        activation_checkpointing=False,
        **OPTIONS,
        **options,
    )
    base = model()
    if loss is not None:
        fuse_lm_head(base, loss)
    made = trainer(
        model=base, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **others
    )
    made.train()
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    parameters = torch.cat([each.detach().flatten() for each in made.model.parameters()])
    return losses, parameters, made


@pytest.fixture(scope="module")
def dft(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("dft"), SFTTrainer, None, loss_type="dft")


def test_gamma_1_takes_the_steps_of_dft(dft: Any, tmp_path: Path) -> None:
    losses, parameters, _ = train(tmp_path, ObjectiveSFTTrainer, GammaCrossEntropy(gamma=1))
    moved = (dft[1] - torch.cat([each.detach().flatten() for each in model().parameters()])).abs().max()
    assert moved > 1e-2
    assert (parameters - dft[1]).abs().max() < 1e-6
    assert losses[0] != pytest.approx(dft[0][0], rel=0.1)  # 1 - p, whose gradient is that of -stop(p) log p


def test_reweighted_by_dft_has_its_losses_too(dft: Any, tmp_path: Path) -> None:
    losses, parameters, _ = train(tmp_path, ObjectiveSFTTrainer, Reweighted(DFTWeight()))
    assert losses == pytest.approx(dft[0], rel=1e-5)
    assert (parameters - dft[1]).abs().max() < 1e-6


def test_another_gamma_takes_other_steps(dft: Any, tmp_path: Path) -> None:
    _, parameters, _ = train(tmp_path, ObjectiveSFTTrainer, GammaCrossEntropy(gamma=0.9))
    assert (parameters - dft[1]).abs().max() > 1e-4


def test_cross_entropy_is_trls_own_loss(tmp_path: Path) -> None:
    losses, parameters, _ = train(tmp_path, ObjectiveSFTTrainer, CrossEntropy())
    plain, theirs, _ = train(tmp_path, SFTTrainer, None)
    assert losses == pytest.approx(plain, rel=1e-5)
    assert (parameters - theirs).abs().max() < 1e-6


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's
def test_with_an_adapter_packing_and_metrics(tmp_path: Path) -> None:
    options = {"peft_config": LoraConfig(r=2), "packing": True, "max_length": 16, "padding_free": False}
    losses, _, trainer = train(
        tmp_path, ObjectiveSFTTrainer, CrossEntropy(), compute_metrics=token_metrics, **options
    )
    assert len(losses) == 3
    found = trainer.evaluate(trainer.train_dataset)
    assert found["eval_perplexity"] == pytest.approx(VOCAB, rel=0.5)


def test_trls_own_compute_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"must compute its loss with model\.loss_function"):
        train(tmp_path, SFTTrainer, CrossEntropy())
