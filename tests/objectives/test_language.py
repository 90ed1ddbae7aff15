"""The cost of causal language models against the same documents one by one, in float64."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import thalweg as tw
from cases import classes, normal, seeded
from language_cases import (
    DOCUMENTS,
    FAMILIES,
    LENGTHS,
    ROUNDING,
    VOCABULARY,
    at,
    gemma,
    gpt2,
    in_double_precision,
    llama,
    llama_config,
    loop_loss,
    terms,
    transformers,
)

PREDICTED = sum(n - 1 for n in LENGTHS)


def one_by_one():
    """Documents as batches of their own, without any filling."""
    documents = [{"input_ids": ids} for ids in DOCUMENTS]
    return DataLoader(documents, batch_size=1)


def buckets():
    """Batches of two documents, each filled up to the longer of the two."""
    return DataLoader(DOCUMENTS, batch_size=2, collate_fn=tw.padded)


FORMS = {
    "one by one": one_by_one,
    "padded right": lambda: tw.padded(DOCUMENTS, pad=3),
    "padded left": lambda: tw.padded(DOCUMENTS, side="left", pad=3),
    "buckets": buckets,
    "packed": lambda: tw.packed(DOCUMENTS, 14, pad=3),
    "packed in one row": lambda: tw.packed(DOCUMENTS, sum(LENGTHS)),
}


def away_from(model, seed=3):
    """Return a point of a model's space away from the model."""
    theta = tw.ParameterSpace.of(model).flatten(model)
    return theta + 0.05 * normal(len(theta), seed=seed)


# --- the cost -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("build", [gpt2, llama])
def test_the_cost_is_that_of_the_documents_one_by_one(build, attention, form):
    model = build(attention)
    theta = away_from(model)
    objective = tw.ModelObjective(model, tw.NextToken(), FORMS[form]())
    expected = loop_loss(at(model, theta))
    assert objective.value(theta) == pytest.approx(expected, rel=ROUNDING[build])
    assert objective.describe()["splits"]["train"]["terms"] == PREDICTED


def test_attention_in_a_window_and_logits_that_are_capped():
    model = gemma()
    theta = away_from(model)
    expected = loop_loss(at(model, theta))
    # Without the cap and without the window there is another cost, so that this test can fail.
    for options in ({"final_logit_softcapping": None}, {"sliding_window": 30}):
        assert abs(loop_loss(at(gemma(**options), theta)) - expected) > 1e-5
    for form in FORMS:
        objective = tw.ModelObjective(model, tw.NextToken(), FORMS[form]())
        assert objective.value(theta) == pytest.approx(expected, rel=ROUNDING[gemma]), form


@pytest.mark.parametrize("build", [gpt2, llama])
def test_transformers_own_loss_says_the_same(build):
    model = build()
    with torch.no_grad():
        sums = [
            float(model(input_ids=ids[None], labels=ids[None]).loss) * (len(ids) - 1)
            for ids in DOCUMENTS
            if len(ids) > 1
        ]
    objective = tw.ModelObjective(model.double(), tw.NextToken(), tw.packed(DOCUMENTS, 14))
    theta = objective.space.flatten(model)
    # Transformers rounds logits to single precision.
    assert objective.value(theta) == pytest.approx(sum(sums) / PREDICTED, rel=1e-6)


@pytest.mark.parametrize("positions", [1, 7, 10_000])
@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
def test_how_many_positions_at_a_time_does_not_matter(build, positions):
    model = build()
    theta = away_from(model)
    loss = tw.NextToken(positions=positions)
    objective = tw.ModelObjective(model, loss, tw.packed(DOCUMENTS, 14))
    expected = loop_loss(at(model, theta))
    assert objective.value(theta) == pytest.approx(expected, rel=ROUNDING[build])


@pytest.mark.parametrize("form", ["padded right", "padded left", "packed"])
def test_a_prompt_does_not_count(form):
    model, table = llama(), FORMS[form]()
    labels = table.get("labels", table["input_ids"]).clone()
    mask = table.get("attention_mask", torch.ones_like(labels))
    labels[table.get("position_ids", mask.cumsum(1) - mask) < 3] = -100
    objective = tw.ModelObjective(model, tw.NextToken(), {**table, "labels": labels})
    expected = -torch.cat([each[2:] for each in terms(model.double())])
    theta = objective.space.flatten(model)
    assert objective.value(theta) == pytest.approx(float(expected.mean()), rel=ROUNDING[llama])


def test_labels_may_be_other_tokens():
    model = llama()
    ids, labels = classes(3, 8, count=VOCABULARY, seed=1), classes(3, 8, count=VOCABULARY, seed=2)
    objective = tw.ModelObjective(model, tw.NextToken(), {"input_ids": ids, "labels": labels})
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].double()
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    theta = objective.space.flatten(model)
    assert objective.value(theta) == pytest.approx(float(expected), rel=1e-12)


def test_a_mask_of_four_dimensions_goes_to_the_model():
    table = tw.packed(DOCUMENTS, 14)
    same = table["position_ids"].diff(dim=1, prepend=table["position_ids"][:, :1] - 1) != 1
    number = same.cumsum(1)
    mask = (number[:, :, None] == number[:, None, :]).tril()[:, None]
    model = llama()
    objective = tw.ModelObjective(model, tw.NextToken(), {**table, "attention_mask": mask})
    theta = away_from(model)
    assert objective.value(theta) == pytest.approx(loop_loss(at(model, theta)), rel=ROUNDING[llama])


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
def test_less_precision_costs_little(build, dtype, relative):
    model = build()
    objective = tw.ModelObjective(model, tw.NextToken(), tw.packed(DOCUMENTS, 14), dtype=dtype)
    theta = objective.space.flatten(model)
    assert objective.value(theta) == pytest.approx(loop_loss(model.double()), rel=relative)


@pytest.mark.parametrize("form", ["padded left", "packed"])
def test_the_share_of_tokens_that_are_not_the_likeliest(form):
    model = llama()
    metrics = {"error": tw.token_error_rate}
    objective = tw.ModelObjective(model, tw.NextToken(), FORMS[form](), metrics=metrics)
    theta = objective.space.flatten(model)
    wrong = 0
    with torch.no_grad():
        for ids in DOCUMENTS:
            wrong += int((model(input_ids=ids[None]).logits[0, :-1].argmax(-1) != ids[1:]).sum())
    assert 0 < wrong <= PREDICTED
    assert objective.evaluate(theta).metrics["error"]["train"] == pytest.approx(wrong / PREDICTED)


def test_a_token_without_a_number_is_wrong():
    model = llama()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
        wrong, count = tw.token_error_rate(model, tw.padded(DOCUMENTS))
    assert float(wrong) == float(count) == PREDICTED


# --- any module -----------------------------------------------------------------------------


class Bigram(nn.Module):
    """Scores for the next token from this one; a tensor, not an output."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 6)

    def forward(self, input_ids, position_ids=None):
        return self.table(input_ids)


class Summed(Bigram):
    """Sees all that came before, whatever document it is of."""

    def forward(self, input_ids, position_ids=None):
        return self.table(input_ids).cumsum(1)


class Hindsight(Bigram):
    """Sees all of the row."""

    def forward(self, input_ids, position_ids=None):
        return self.table(input_ids) + self.table(input_ids).mean(1, keepdim=True)


class Transposed(Bigram):
    def forward(self, input_ids, position_ids=None):
        return self.table(input_ids).movedim(-1, 1)


IDS = classes(4, 5, count=6, seed=8)
PAIRS = tw.packed([[1, 2, 3], [4, 5], [5, 1, 2, 4], [3]], 5)


@pytest.mark.parametrize("data", [IDS, {"input_ids": IDS}, (DataLoader(IDS, batch_size=3))])
def test_any_module_will_do(data):
    model = seeded(Bigram, 1)
    objective = tw.ModelObjective(model, tw.NextToken(), data)
    theta = normal(36, seed=2)
    table = theta.view(6, 6).log_softmax(1)
    expected = -table[IDS[:, :-1], IDS[:, 1:]].mean()
    assert objective.value(theta) == pytest.approx(float(expected), rel=1e-12)


def test_a_model_that_looks_ahead_is_refused():
    with pytest.raises(ValueError, match=r"in Hindsight the loss of earlier tokens moves by .*Use"):
        tw.ModelObjective(seeded(Hindsight, 1), tw.NextToken(), IDS)
    config = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    bert = transformers.BertConfig(intermediate_size=32, vocab_size=97, **config)
    model = seeded(lambda: transformers.BertForMaskedLM(bert), 1)
    with pytest.raises(ValueError, match=r"in BertForMaskedLM the loss of earlier tokens moves"):
        tw.ModelObjective(model, tw.NextToken(), {"input_ids": torch.stack([DOCUMENTS[0]] * 2)})


def test_documents_that_see_each_other_are_refused():
    tw.ModelObjective(seeded(Bigram, 1), tw.NextToken(), PAIRS)
    with pytest.raises(ValueError, match=r"in Summed the loss of one moves by .*thalweg.padded"):
        tw.ModelObjective(seeded(Summed, 1), tw.NextToken(), PAIRS)
    # In one document each it is allowed.
    tw.ModelObjective(seeded(Summed, 1), tw.NextToken(), tw.padded([[1, 2, 3], [4, 5]]))


def test_a_cache_that_lets_packed_documents_see_each_other_is_found():
    batch = {**tw.packed(DOCUMENTS, 14), "use_cache": True}
    data = DataLoader([0], batch_size=1, collate_fn=lambda _: batch)
    with pytest.raises(ValueError, match=r"Packed documents must not see each other; in LlamaFor"):
        tw.ModelObjective(llama(), tw.NextToken(), data)


def test_a_mask_that_hides_nothing_does_not_undo_packing():
    table = tw.packed(DOCUMENTS, 14)
    table["attention_mask"] = torch.ones_like(table["input_ids"])
    model = llama()
    objective = tw.ModelObjective(model, tw.NextToken(), table)
    theta = away_from(model)
    expected = loop_loss(at(model, theta))
    assert objective.value(theta) == pytest.approx(expected, rel=ROUNDING[llama])


def test_a_mask_with_holes_goes_to_the_model():
    ids, mask = classes(3, 8, count=VOCABULARY, seed=1), torch.ones(3, 8, dtype=torch.long)
    mask[0, 3] = mask[1, 5:] = 0
    model = gpt2()
    objective = tw.ModelObjective(model, tw.NextToken(), {"input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    both = (mask[:, 1:] * mask[:, :-1]).bool()
    expected = nn.functional.cross_entropy(logits[both], ids[:, 1:][both])
    theta = objective.space.flatten(model)
    assert objective.value(theta) == pytest.approx(float(expected), rel=1e-12)


def test_the_one_token_of_a_document_is_not_predicted():
    data = tw.padded([[1], [2]])
    with pytest.raises(ValueError, match=r"one term at least; 'loss' counts none"):
        tw.ModelObjective(seeded(Summed, 1), tw.NextToken(), data).value(normal(36))


@pytest.mark.parametrize(
    ("model", "data", "error", "message"),
    [
        (
            Bigram,
            {"tokens": IDS},
            TypeError,
            r"called 'input_ids'.*got the keys \['tokens'\]. Make",
        ),
        (Bigram, IDS.double(), TypeError, r"or a tensor of them; got Tensor"),
        (Bigram, (IDS, IDS), TypeError, r"or a tensor of them; got tuple"),
        (Bigram, IDS[0], ValueError, r"shape \(rows, length\); got \(5,\). Put one document"),
        (
            Bigram,
            {"input_ids": IDS, "labels": IDS[:, 1:]},
            ValueError,
            r"`labels` must have the shape of the token ids, \(4, 5\); got \(4, 4\). Make both",
        ),
        (Transposed, IDS, ValueError, r"shape \(1, 5, vocabulary\).*got \(1, 6, 5\). Move"),
    ],
)
def test_what_does_not_fit(model, data, error, message):
    with pytest.raises(error, match=message):
        tw.ModelObjective(seeded(model, 1), tw.NextToken(), data).value(normal(36))


def test_positions_are_one_or_more():
    with pytest.raises(ValueError, match=r"`positions` must be 1 or more; got 0. Leave it out"):
        tw.NextToken(positions=0)


# --- the head -------------------------------------------------------------------------------


class LargestTable(TorchDispatchMode):
    """Notes the most rows of any tensor with one entry a word of the vocabulary."""

    rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = function.__name__.partition(".")[0] not in ("t", "detach")  # views of the weights
        if made and isinstance(result, torch.Tensor) and result.shape[-1:] == (VOCABULARY,):
            self.rows = max(self.rows, result.numel() // VOCABULARY)
        return result


@pytest.mark.parametrize(
    ("build", "positions", "rows"), [(gpt2, 5, 5), (llama, 5, 5), (llama, 999, PREDICTED)]
)
def test_no_larger_table_of_logits_is_made(build, positions, rows):
    model = build()
    table = tw.packed(DOCUMENTS, 14)
    with torch.no_grad(), LargestTable() as seen:
        tw.NextToken(positions)(model, table)
    assert seen.rows == rows
    with torch.no_grad(), LargestTable() as seen:
        model(input_ids=table["input_ids"])
    assert seen.rows == table["input_ids"].numel()


@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
def test_the_head_is_put_back(build):
    model = build()
    before = vars(model.get_output_embeddings()).copy()
    tw.NextToken(3)(model, tw.packed(DOCUMENTS, 14))
    assert vars(model.get_output_embeddings()).keys() == before.keys()


def test_a_head_with_a_forward_of_its_own_keeps_it():
    model = llama()
    head, table = model.lm_head, tw.packed(DOCUMENTS, 14)
    plain = type(head).forward
    head.forward = lambda hidden: 2 * plain(head, hidden)
    own = head.forward
    with torch.no_grad():
        total, count = tw.NextToken()(model, table)
    assert head.forward is own
    assert float(total / count) == pytest.approx(loop_loss(model), rel=ROUNDING[llama])


class Scaled(transformers.LlamaForCausalLM):
    """Scales its logits after the head, by a parameter that is 1 at first."""

    def __init__(self, config):
        super().__init__(config)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, input_ids, **named):
        output = super().forward(input_ids, **named)
        output.logits = output.logits * self.temperature
        return output


def test_what_a_model_does_to_its_logits_is_not_left_out_where_it_begins_to_matter():
    model = seeded(lambda: Scaled(llama_config()), 1)
    objective = tw.ModelObjective(model, tw.NextToken(), tw.packed(DOCUMENTS, 14))
    start = objective.space.flatten(model)
    end = start.clone()
    assert objective.space.names[0] == "temperature"
    end[0] = 3.0
    for theta in (start, end, start):
        assert objective.value(theta) == pytest.approx(
            loop_loss(at(model, theta)), rel=ROUNDING[llama]
        )


class Forbidding(transformers.LlamaForCausalLM):
    """Never says one of its words, which it picks out of the logits by number."""

    def forward(self, input_ids, **named):
        output = super().forward(input_ids, **named)
        output.logits[..., 90] = -1e9
        return output


def test_a_model_that_needs_its_logits_gets_them():
    model = seeded(lambda: Forbidding(llama_config()), 1)
    objective = tw.ModelObjective(model, tw.NextToken(), tw.padded(DOCUMENTS))
    theta = away_from(model)
    assert objective.value(theta) == pytest.approx(loop_loss(at(model, theta)), rel=ROUNDING[llama])


# --- derivatives, tied parameters, what stays as it was -------------------------------------


def own_gradient(model):
    """Return the gradient of the mean over all tokens, by backward through one document each."""
    model = copy.deepcopy(model).double().eval()
    for ids in DOCUMENTS:
        if len(ids) > 1:
            logits = model(input_ids=ids[None]).logits[0, :-1]
            (nn.functional.cross_entropy(logits, ids[1:], reduction="sum") / PREDICTED).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("form", ["padded left", "packed"])
@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
def test_the_gradient_is_that_of_backward(build, form):
    model = build()
    theta = away_from(model)
    objective = tw.ModelObjective(model, tw.NextToken(positions=5), FORMS[form]())
    torch.testing.assert_close(objective.gradient(theta), own_gradient(at(model, theta)))


@pytest.mark.parametrize("form", ["padded left", "packed"])
@pytest.mark.parametrize("build", [gpt2, llama])
def test_the_second_derivative_under_fused_attention(build, form):
    model = in_double_precision(build("sdpa"))
    theta = away_from(model)
    objective = tw.ModelObjective(model, tw.NextToken(positions=5), FORMS[form]())
    vector = normal(len(theta), seed=5)
    step = 1e-5
    forward, backward = (own_gradient(at(model, theta + h * vector)) for h in (step, -step))
    product = objective.hvp(theta, vector)
    expected = (forward - backward) / (2 * step)
    assert float((product - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_embedding_counts_once(build, tied):
    model = build(tie_word_embeddings=tied)
    shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert shared is tied
    objective = tw.ModelObjective(model, tw.NextToken(), tw.packed(DOCUMENTS, 14))
    own = {id(p): p.numel() for p in model.parameters()}
    assert objective.space.size == sum(own.values())
    # Moving the shared matrix moves both of its uses.
    theta = objective.space.flatten(model)
    assert torch.equal(objective.space.flatten(model.state_dict()), theta)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.get_input_embeddings().weight.add_(0.1)
    point = objective.space.flatten(moved)
    expected = loop_loss(moved)
    assert objective.value(point) == pytest.approx(expected, rel=ROUNDING[build])


@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES)
def test_model_and_settings_stay_as_they_were(build):
    model = build().train()
    model.get_output_embeddings().weight.grad = torch.ones_like(
        model.get_output_embeddings().weight
    )
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = copy.deepcopy(model.config.to_dict())
    table = tw.packed(DOCUMENTS, 14)
    kept = {name: tensor.clone() for name, tensor in table.items()}
    objective = tw.ModelObjective(
        model, tw.NextToken(), table, metrics={"error": tw.token_error_rate}
    )
    start = objective.space.flatten(model)
    tw.profile(objective, tw.Line(start, away_from(model)), [0.0, 0.3, 1.0], progress=False)
    objective.gradient(start)
    assert model.training
    assert model.config.to_dict() == settings
    assert model.config.use_cache
    assert all(torch.equal(tensor, tensors[n]) for n, tensor in model.state_dict().items())
    assert bool((model.get_output_embeddings().weight.grad == 1).all())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in table.items())
