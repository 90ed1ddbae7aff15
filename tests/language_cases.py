"""Small causal language models with documents, and their cost computed one document at a time."""

import copy

import pytest
import torch

from cases import classes, generator, seeded

transformers = pytest.importorskip(
    "transformers", reason="needs Transformers (pip install 'thalweg[hf]')"
)

VOCABULARY = 97
LENGTHS = (9, 4, 1, 12, 6, 2, 7)
DOCUMENTS = [classes(n, count=VOCABULARY, seed=40 + n) for n in LENGTHS]

_SIZES = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "use_cache": True}


def gpt2(attention="sdpa", **options):
    """Learned positions, tied embeddings, biases everywhere."""
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=4, n_positions=32, **(_SIZES | options)
    )
    config._attn_implementation = attention
    return _wide(seeded(lambda: transformers.GPT2LMHeadModel(config), 1))


def llama(attention="sdpa", **options):
    """Rotary positions, grouped queries, an output head of its own."""
    return _wide(
        seeded(lambda: transformers.LlamaForCausalLM(llama_config(attention, **options)), 1)
    )


def llama_config(attention="sdpa", **options):
    config = transformers.LlamaConfig(**(_of_llama_kind() | options))
    config._attn_implementation = attention
    return config


def gemma(**options):
    """Logits capped after the head, and attention that sees six tokens in every other layer."""
    config = transformers.Gemma2Config(
        head_dim=8,
        query_pre_attn_scalar=8,
        **(_of_llama_kind() | {"final_logit_softcapping": 0.5, "sliding_window": 6} | options),
    )
    config._attn_implementation = "eager"
    return _wide(seeded(lambda: transformers.Gemma2ForCausalLM(config), 1))


def _of_llama_kind():
    return _SIZES | {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
    }


def _wide(model):
    """Move every parameter, so that no bias is 0 and every head attends to something."""
    draw = generator(9)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.add_(0.15 * noise)
    return model.eval()


FAMILIES = {"gpt2": gpt2, "llama": llama, "gemma": gemma}

# Transformers computes some layers of these in single precision whatever their type.
ROUNDING = {gpt2: 1e-12, llama: 1e-7, gemma: 1e-7}


def in_double_precision(model):
    """Replace the layers that compute in single precision whatever the type of the model."""
    for part in model.modules():
        for name, child in part.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                norm = torch.nn.RMSNorm(child.weight.shape, child.variance_epsilon)
                norm.weight = child.weight
                setattr(part, name, norm)
    return model


def at(model, theta):
    """Return a copy of a model whose trainable parameters are those of a point."""
    moved = copy.deepcopy(model).double().eval()
    trainable = [p for p in moved.parameters() if p.requires_grad]
    torch.nn.utils.vector_to_parameters(theta.double().clone(), trainable)
    return moved


def terms(model, documents=DOCUMENTS):
    """Go through single documents without padding; one vector of log-likelihoods each."""
    found = []
    with torch.no_grad():
        for ids in documents:
            logits = model(input_ids=ids[None]).logits[0, :-1].double()
            found.append(logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]])
    return found


def loop_loss(model, documents=DOCUMENTS):
    """Return the mean over all predicted tokens of the negative log-likelihood."""
    every = torch.cat(terms(model, documents))
    return -float(every.sum()) / len(every)
