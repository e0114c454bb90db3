"""compute_loss_func for every head of transformers: the loss and the gradient that are computed apart."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

from peft import LoraConfig, get_peft_model
from transformers import Trainer

from equipoise.integrations.transformers import compute_loss_func
from equipoise.losses import CrossEntropy, GammaCrossEntropy
from support.transformers_heads import (
    BERT,
    HEADS,
    LLAMA,
    OUTPUTS,
    SEQ2SEQ,
    TRAINED,
    N,
    Plain,
    T,
    V,
    arguments,
    classes,
    declared,
    hf,
    make,
    partly,
    rows,
    textbook,
    tokens,
)


@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning")  # EncoderDecoderModel's
@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_that_of_the_model(name: str) -> None:
    """The loss is that of the model's own head."""
    model, batch = make(name)
    model.eval()
    with torch.no_grad():
        outputs = model(**batch)
        found = compute_loss_func(CrossEntropy(), model)(outputs, batch["labels"])
    torch.testing.assert_close(found, outputs.loss, rtol=2e-6, atol=0)
    assert found.item() == pytest.approx(textbook(model, batch)[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_the_trainer_has_the_loss_and_gradient_however_a_step_is_cut(name: str, tmp_path: Path) -> None:
    """Loss and gradient in the Trainer do not depend on how a step is divided into batches."""
    model, batch = make(name)
    loss, slope = textbook(model, batch)
    func = compute_loss_func(CrossEntropy(), model)
    start = copy.deepcopy(model.state_dict())
    for size, steps in ((N, 1), (2, 4)):
        model.load_state_dict(start)
        trainer = Trainer(
            model, arguments(tmp_path, size, steps), train_dataset=rows(batch), compute_loss_func=func
        )
        if steps == 1:
            assert trainer.evaluate(rows(batch))["eval_loss"] == pytest.approx(loss, rel=1e-5)
            found = trainer.predict(rows(batch))
            assert found.metrics is not None
            assert found.metrics["test_loss"] == pytest.approx(loss, rel=1e-5)
        trainer.train()
        logged = trainer.state.log_history[0 if steps > 1 else -2]
        assert logged["loss"] == pytest.approx(loss, rel=1e-5)
        assert logged["grad_norm"] == pytest.approx(slope, rel=1e-4)


# Several processes and devices, adapters, a model of one's own


def test_a_step_on_two_devices_of_one_process_is_that_on_one(tmp_path: Path) -> None:
    """A step on two devices in one process is that on one device."""
    model, batch = make("sequence, bert")
    loss, slope = textbook(model, batch)
    args = arguments(tmp_path, N // 2)
    args._n_gpu = 2  # as where two are found: the Trainer wraps the model in DataParallel
    func = compute_loss_func(CrossEntropy(), model)
    trainer = Trainer(model, args, train_dataset=rows(batch), compute_loss_func=func)
    trainer.train()
    assert isinstance(trainer.model_wrapped, nn.DataParallel)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(slope, rel=1e-4)


@pytest.fixture
def process_group(tmp_path: Path) -> Any:
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def adapted(model: nn.Module) -> Any:
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "query", "q"]))  # pyright: ignore


def fully_sharded(model: nn.Module) -> Any:
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model)


def fully_sharded_before(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


DDP = nn.parallel.DistributedDataParallel
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "data parallel": nn.DataParallel,
    "distributed": DDP,
    "compiled": compiled,
    "adapters": adapted,
    "distributed, compiled": lambda model: DDP(compiled(model)),
    "compiled, distributed, adapters": lambda model: compiled(DDP(adapted(model))),
    "fully sharded": fully_sharded,
    "fully sharded, as it was before": fully_sharded_before,
}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's
@pytest.mark.filterwarnings("ignore:.*FSDP:FutureWarning", "ignore:FSDP:UserWarning")
@pytest.mark.parametrize(
    ("wrapper", "name"),
    [(each, "causal, llama") for each in WRAPPERS]
    + [(each, "token, as many as classes") for each in WRAPPERS]
    + [(each, "sequence to sequence, t5") for each in ("distributed", "fully sharded", "adapters")],
)
def test_a_wrapper_hides_nothing(wrapper: str, name: str, process_group: None) -> None:
    """The head is found through each wrapper."""
    model, batch = make(name)
    expected = textbook(model, batch)[0]
    wrapped = WRAPPERS[wrapper](model)
    func = compute_loss_func(CrossEntropy(), wrapped)
    labels = batch.pop("labels")
    loss = func(wrapped(**batch), labels)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert any(each.grad is not None for each in wrapped.parameters())
    if name.startswith("sequence to"):
        wrapped(**batch | {"decoder_input_ids": None, "decoder_inputs_embeds": torch.zeros(N, T - 1, 8)})
        func(wrapped(**batch), labels)


@pytest.mark.parametrize("wrapper", ["data parallel", "distributed", "compiled"])
def test_the_trainer_counts_what_a_wrapper_shifts(wrapper: str, process_group: None, tmp_path: Path) -> None:
    """The Trainer counts labels as the wrapped model shifts them."""
    model, batch = make("causal, llama")
    expected = textbook(model, batch)[0]
    wrapped = WRAPPERS[wrapper](model)
    args = arguments(tmp_path, 4, 2)
    args.remove_unused_columns = False  # of a wrapper the Trainer knows no columns
    func = compute_loss_func(CrossEntropy(), wrapped)
    trainer = Trainer(wrapped, args, train_dataset=rows(batch), compute_loss_func=func)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("outputs", "soft"), [*((each, False) for each in OUTPUTS), ("dict", True)])
def test_a_module_of_ones_own(outputs: str, soft: bool, tmp_path: Path) -> None:
    """A module of the user's own works with each form of output."""
    torch.manual_seed(0)
    model = Plain(OUTPUTS[outputs], 6, 4)
    hidden = torch.randn(N, 6)
    labels = torch.rand(N, 4).softmax(1) if soft else classes(N)
    loss = GammaCrossEntropy(0.1)
    expected = loss(model.layer(hidden).double(), labels.double() if soft else labels).item()
    data: Any = [{"hidden": one, "labels": label} for one, label in zip(hidden, labels, strict=True)]
    for size, steps in ((N, 1), (2, 4)):
        func = compute_loss_func(loss, twin := copy.deepcopy(model))
        trainer = Trainer(twin, arguments(tmp_path, size, steps), train_dataset=data, compute_loss_func=func)
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss_type", ["ForTokenClassification", "ForMaskedLM", "ForCausalLM"])
def test_a_module_of_ones_own_says_what_its_labels_are(loss_type: str, tmp_path: Path) -> None:
    """`loss_type` declares the labels of a module of the user's own."""
    torch.manual_seed(0)
    model = Plain(OUTPUTS["dict"], 6, T)
    model.loss_type = loss_type  # pyright: ignore[reportArgumentType]
    batch = {"hidden": torch.randn(N, T, 6), "labels": partly(classes(N, T, of=T))}
    logits, labels = model.layer(batch["hidden"]).double(), batch["labels"]
    if loss_type == "ForCausalLM":
        logits, labels = logits[:, :-1], labels[:, 1:]
    expected = F.cross_entropy(logits.reshape(-1, T), labels.reshape(-1)).item()
    for size, steps in ((N, 1), (2, 4)):
        twin = copy.deepcopy(model)
        func = compute_loss_func(CrossEntropy(), twin)
        trainer = Trainer(
            twin, arguments(tmp_path, size, steps), train_dataset=rows(batch), compute_loss_func=func
        )
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_pixels_of_a_module_of_ones_own() -> None:
    """Semantic segmentation by a module of the user's own ignores class 255."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3, 4), classes(2, 3, 4)
    model = declared(Plain(OUTPUTS["dict"], 4, 4), "ForSemanticSegmentation")
    model.layer = nn.Identity()
    func = compute_loss_func(CrossEntropy(), model)
    expected = F.cross_entropy(logits.double(), labels)
    assert func(model(logits), labels).item() == pytest.approx(expected.item(), rel=1e-6)
    soft = torch.rand(2, 4, 3, 4).softmax(1)
    expected = F.cross_entropy(logits.double(), soft.double())
    for count in (None, soft.numel()):  # the Trainer counts every number
        assert func(model(logits), soft, count).item() == pytest.approx(expected.item(), rel=1e-6)
    flattened = F.cross_entropy(logits.double().flatten(0, -2), labels.flatten())
    assert abs(flattened - F.cross_entropy(logits.double(), labels)) > 0.01


def test_a_class_of_ones_own_has_the_head_of_its_base() -> None:
    """A subclass has the head of its base class."""

    class Tagger(hf.BertForTokenClassification):
        pass

    model = Tagger(hf.BertConfig(**BERT | {"num_labels": T})).eval()
    assert model.loss_type is None
    batch = {"input_ids": tokens(N, T), "labels": partly(classes(N, T, of=T))}
    outputs = model(**batch)
    found = compute_loss_func(CrossEntropy(), model)(outputs, batch["labels"])
    torch.testing.assert_close(found, outputs.loss)

    class Shifted(hf.LlamaForCausalLM):
        pass

    with pytest.raises(ValueError, match=r"^model must have a loss_type .*, got none for Shifted; before"):
        compute_loss_func(CrossEntropy(), Shifted(hf.LlamaConfig(**LLAMA)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantised_model_is_evaluated() -> None:
    """A quantised model can be evaluated."""
    model, batch = make("masked, bert")
    model.eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    outputs = quantised(**batch)
    found = compute_loss_func(CrossEntropy(), quantised)(outputs, batch["labels"])
    torch.testing.assert_close(found, outputs.loss)


def test_labels_in_a_column() -> None:
    """Labels of shape (B, 1) are accepted."""
    model, batch = make("sequence, bert")
    func, outputs = compute_loss_func(CrossEntropy(), model), model(input_ids=batch["input_ids"])
    assert torch.equal(func(outputs, batch["labels"][:, None]), func(outputs, batch["labels"]))


# The inputs of a decoder

DECODERS = [name for name in HEADS if name.startswith("sequence to sequence")]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("how", ["train", "evaluate", "predict"])
def test_a_pass_in_which_a_decoder_reads_something_else_is_refused(
    name: str, how: str, tmp_path: Path
) -> None:
    """A decoder without inputs of its own is refused."""
    model, batch = make(name)
    del batch["decoder_input_ids"]
    func = compute_loss_func(CrossEntropy(), model)
    trainer = Trainer(model, arguments(tmp_path, N), train_dataset=rows(batch), compute_loss_func=func)
    with pytest.raises(ValueError, match=r"decoder_input_ids|decoder_inputs_embeds|input_ids"):
        trainer.train() if how == "train" else getattr(trainer, how)(rows(batch))


@pytest.mark.parametrize("family", ["Bart", "MBart", "Mvp", "PLBart"])
def test_a_decoder_that_would_read_the_source_is_named(family: str) -> None:
    """The decoder that would read the source is named."""
    batch = make("sequence to sequence, bart")[1]
    model = getattr(hf, f"{family}ForConditionalGeneration")(getattr(hf, f"{family}Config")(**SEQ2SEQ))
    labels = batch.pop("labels")
    del batch["decoder_input_ids"]
    func = compute_loss_func(CrossEntropy(), model)
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert pickled(**batch).logits.shape == (N, T, V)
    wrong = F.pad(labels, (0, 1), value=-100)  # as long as the source: no shape tells
    for each in (model, copied):
        with pytest.raises(
            ValueError,
            match=f"^decoder_input_ids must be in the batches of {type(model).__name__}, got none; ",
        ):
            func(each(**batch), wrong)
    given = model.prepare_decoder_input_ids_from_labels(labels)
    own = model(**batch, labels=labels)
    for outputs in (own, model(**batch, decoder_input_ids=given), model(batch["input_ids"], None, given)):
        torch.testing.assert_close(func(outputs, labels), own.loss, rtol=2e-6, atol=0)
    assert model.generate(batch["input_ids"], max_new_tokens=2).shape[0] == N


def test_the_collator_of_the_model_gives_them(tmp_path: Path) -> None:
    """The data collator with the model provides decoder inputs."""
    from tokenizers import Tokenizer, models

    words = {"<pad>": 0} | {f"w{i}": i for i in range(1, V)}
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words)), pad_token="<pad>"
    )
    model, batch = make("sequence to sequence, bart")
    data: Any = [
        {"input_ids": source.tolist(), "labels": labels[: T - 1 - i % 2].tolist()}
        for i, (source, labels) in enumerate(zip(batch["input_ids"], tokens(N, T), strict=True))
    ]
    collator = hf.DataCollatorForSeq2Seq(tokenizer, model=model)
    func = compute_loss_func(CrossEntropy(), model)
    trainer = Trainer(
        model, arguments(tmp_path, 2, 4), data_collator=collator, train_dataset=data, compute_loss_func=func
    )
    whole = collator(copy.deepcopy(data))
    own = model.eval()(
        input_ids=whole["input_ids"], attention_mask=whole["attention_mask"], labels=whole["labels"]
    )
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(own.loss.item(), rel=1e-5)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(own.loss.item(), rel=1e-5)
