"""Causal language models of a few hundred parameters, and tokens for them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

V = 61
SMALL: dict[str, Any] = dict(
    vocab_size=V,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
GPT: dict[str, Any] = dict(
    vocab_size=V, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
)
ADAPTERS = pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=["body", "body and head", "whole head"],
)
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL)),
    "llama, tied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SMALL)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT)),
    "gptj, with a bias": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**GPT, rotary_dim=4)),
    "gemma2, capped": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SMALL, final_logit_softcapping=0.7)),
    "cohere, scaled": lambda: hf.CohereForCausalLM(hf.CohereConfig(**SMALL, logit_scale=2.5)),
    "granite, divided": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**SMALL, logits_scaling=0.3)),
    "mixtral, with a loss of its router": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**SMALL, num_local_experts=2, output_router_logits=True)
    ),
}


def make(name: str = "llama") -> Any:
    torch.manual_seed(0)
    return ARCHITECTURES[name]()


def batch(rows: int = 3, length: int = 9) -> tuple[Tensor, Tensor]:
    """Tokens, and labels of which an uneven part counts."""
    tokens = torch.randint(3, V, (rows, length), generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    for row in range(rows):
        labels[row, : 2 * row] = -100
    return tokens, labels


def lora(**options: Any) -> Any:
    model = get_peft_model(make(), LoraConfig(r=2, **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)  # it starts at zero, where the adapter does nothing
    return model
