"""TRL's SFTTrainer with an objective, against its own loss of dynamic fine-tuning."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed", exc_type=ImportError)

import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer
from trl import SFTConfig, SFTTrainer

from equipoise.integrations.transformers import fuse_lm_head, token_metrics
from equipoise.losses import CrossEntropy, GammaCrossEntropy, Reweighted
from equipoise.losses.base import Loss
from equipoise.losses.robust import DFTWeight
from support.trainer_options import OPTIONS

pytestmark = [
    pytest.mark.slow,
    # TRL's and peft's own
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]
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


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(VOCAB - 2)} | {"<pad>": VOCAB - 2, "<eos>": VOCAB - 1}
    made = Tokenizer(WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def train(folder: Path, trainer: type[SFTTrainer], loss: Loss | None, **options: Any) -> Any:
    """Train for three steps of two unlike batches; return losses, parameters and trainer."""
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
        **OPTIONS,
        **options,
    )
    base = model()
    if loss is not None:
        fuse_lm_head(base, loss)
    made = trainer(
        model=base, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer(), **others
    )
    made.train()
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    parameters = torch.cat([each.detach().flatten() for each in made.model.parameters()])
    return losses, parameters, made


PRECISIONS = {"defaults": {}, "float32": {"bf16": False}}  # by default in bfloat16, with checkpointing


@pytest.fixture(scope="module", params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PRECISIONS[request.param]


@pytest.fixture(scope="module")
def dft(tmp_path_factory: pytest.TempPathFactory, precision: dict[str, Any]) -> Any:
    """TRL's own losses and parameters; and in float32."""
    folder = tmp_path_factory.mktemp("dft")
    return [
        train(folder, SFTTrainer, None, loss_type="dft", **each)[:2] for each in (precision, {"bf16": False})
    ]


def difference(one: Any, other: Any) -> float:
    return (torch.as_tensor(one) - torch.as_tensor(other)).abs().max().item()


def close(ours: Any, theirs: Any, truth: Any) -> bool:
    """Whether ours are no further from float32 than twice what theirs are; measured, 1.2 times."""
    return difference(ours, truth) <= 2 * difference(theirs, truth) + 1e-6


def test_gamma_1_takes_the_steps_of_dft(dft: Any, precision: dict[str, Any], tmp_path: Path) -> None:
    """Gamma 1 takes the steps of TRL's dynamic fine-tuning."""
    losses, parameters, _ = train(tmp_path, ObjectiveSFTTrainer, GammaCrossEntropy(gamma=1), **precision)
    theirs, truth = dft
    assert difference(truth[1], torch.cat([each.detach().flatten() for each in model().parameters()])) > 1e-2
    assert close(parameters, theirs[1], truth[1])
    assert losses[0] != pytest.approx(truth[0][0], rel=0.1)  # 1 - p, whose gradient is that of -stop(p) log p


def test_reweighted_by_dft_has_its_losses_too(dft: Any, precision: dict[str, Any], tmp_path: Path) -> None:
    """`Reweighted` with the weight of dynamic fine-tuning has its losses too."""
    losses, parameters, _ = train(tmp_path, ObjectiveSFTTrainer, Reweighted(DFTWeight()), **precision)
    for ours, theirs, truth in zip((losses, parameters), *dft, strict=True):
        assert close(ours, theirs, truth)


def test_another_gamma_takes_other_steps(dft: Any, precision: dict[str, Any], tmp_path: Path) -> None:
    """Another gamma takes other steps."""
    _, parameters, _ = train(tmp_path, ObjectiveSFTTrainer, GammaCrossEntropy(gamma=0.9), **precision)
    theirs, truth = dft
    assert difference(parameters, theirs[1]) > 1e-4
    assert not close(parameters, theirs[1], truth[1])


def test_cross_entropy_is_trls_own_loss(precision: dict[str, Any], tmp_path: Path) -> None:
    """Cross entropy takes the steps of TRL's own loss."""
    ours = train(tmp_path, ObjectiveSFTTrainer, CrossEntropy(), **precision)[:2]
    theirs, truth = (train(tmp_path, SFTTrainer, None, **each)[:2] for each in (precision, {"bf16": False}))
    for found, other, right in zip(ours, theirs, truth, strict=True):
        assert close(found, other, right)


def test_with_an_adapter_packing_and_metrics(tmp_path: Path) -> None:
    """An adapter, packing and metrics work together."""
    options = {"peft_config": LoraConfig(r=2), "packing": True, "max_length": 16, "padding_free": False}
    losses, _, trainer = train(
        tmp_path, ObjectiveSFTTrainer, CrossEntropy(), compute_metrics=token_metrics, **options
    )
    assert len(losses) == 3
    found = trainer.evaluate(trainer.train_dataset)
    assert found["eval_perplexity"] == pytest.approx(VOCAB, rel=0.5)


def test_trls_own_compute_loss_is_refused(tmp_path: Path) -> None:
    """TRL's own `compute_loss` is refused."""
    with pytest.raises(
        RuntimeError, match=r"^a fused model must compute .*, got fused_.* from \S*SFTTrainer\.\S*; for"
    ):
        train(tmp_path, SFTTrainer, CrossEntropy())


@pytest.mark.parametrize("kind", ["DPO", "KTO", "GRPO", "RLOO"])
def test_trainers_with_a_loss_of_their_own_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    """TRL trainers with losses of their own are refused by name."""
    row = {"prompt": "w4 w5", "chosen": " w6", "rejected": " w7", "completion": " w6"}
    used = {"DPO": ("prompt", "chosen", "rejected"), "KTO": ("prompt", "completion")}.get(kind, ("prompt",))
    rows = [
        {name: row[name] for name in used} | ({"label": i < 2} if kind == "KTO" else {}) for i in range(4)
    ]
    sampling = {"num_generations": 2, "max_completion_length": 3} if used == ("prompt",) else {}
    rewards = (
        {"reward_funcs": lambda completions, **_: [0.0, 1.0] * (len(completions) // 2)} if sampling else {}
    )
    args = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path), per_device_train_batch_size=4, **OPTIONS, **sampling
    )
    fused = get_peft_model(model(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    fuse_lm_head(fused, CrossEntropy())
    trainer = getattr(trl, f"{kind}Trainer")(
        model=fused,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        **rewards,
    )
    with pytest.raises(
        RuntimeError, match=rf"^a fused model must .*, got .* from \S*\.{kind}Trainer\.\S*; for SFT"
    ):
        trainer.train()
