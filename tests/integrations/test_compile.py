"""Under inductor, the default of torch.compile and of Trainer, the model pair computes the same as in eager mode."""

import pytest
import torch
from torch.testing import assert_close
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining, Trainer, TrainingArguments

from electra_kernels.integrations import DataCollatorForReplacedTokens, ReplacedTokenDetection
from electra_kernels.row_uniforms import row_uniforms

from .gradients import KeepGradients, rows, tokenizer
from .tiny import SIZE

# One layer, and the same shapes in both tests, so that the second test finds the first one's code in the cache.
LAYER = ElectraConfig(
    **SIZE | {"num_hidden_layers": 1},
    embedding_size=16,
    initializer_range=0.2,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


@pytest.fixture(autouse=True)
def _reset_compiler():
    torch.compiler.reset()


def model():
    torch.manual_seed(0)
    return ReplacedTokenDetection(
        ElectraForMaskedLM(LAYER), ElectraForPreTraining(LAYER), tokenizer=tokenizer()
    ).train()


def collator():
    return DataCollatorForReplacedTokens(tokenizer(), pad_to_multiple_of=64)


@pytest.mark.parametrize("width", [9, 57, 300])
def test_compiled_row_uniforms_have_the_same_bits(width):
    def step(first, seed):
        return row_uniforms(first + torch.arange(4), width, seed)

    compiled = torch.compile(step, fullgraph=True)
    for first in (0, 3, 2**62):
        for seed in (0, 1, -1, 2**63 - 1):
            start = torch.tensor(first)
            assert torch.equal(compiled(start, seed), step(start, seed)), (first, seed)


def test_one_graph_of_row_uniforms_serves_every_width():
    compiled = torch.compile(row_uniforms, fullgraph=True, dynamic=True)
    for count, width in ((4, 57), (5, 9), (7, 300)):
        numbers = torch.arange(count)
        with torch.compiler.set_stance("default" if count == 4 else "fail_on_recompile"):
            assert torch.equal(compiled(numbers, width, 0), row_uniforms(numbers, width, 0))


def test_row_uniforms_passes_opcheck():
    torch.library.opcheck(torch.ops.electra_kernels.row_uniforms, (torch.arange(5), 9, -1))
    torch.library.opcheck(torch.ops.electra_kernels.row_uniforms, (torch.arange(0), 4, 0))


def assert_equal_gradients(got, expected):
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(got[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_the_compiled_pair_has_the_losses_draws_and_gradients_of_eager_mode():
    ours, other = model(), model()
    compiled = torch.compile(other, fullgraph=True)
    for start in (0, 4, 8):  # the uniforms differ from step to step
        inputs = collator()(rows()[start : start + 4])
        inputs["num_items_in_batch"] = (inputs["labels"] != -100).sum()
        expected, got = ours(**inputs), compiled(**inputs)
        assert torch.equal(got.is_replaced, expected.is_replaced)
        assert got.is_replaced.any()
        assert_close(got.loss, expected.loss)
        gradients = []
        for part, output in ((other, got), (ours, expected)):
            part.zero_grad()
            output.loss.backward()
            gradients.append({name: p.grad for name, p in part.named_parameters()})
        assert_equal_gradients(*gradients)
    assert torch.equal(other.rows_seen, ours.rows_seen)


def test_a_trainer_step_with_torch_compile(tmp_path):
    losses, gradients = [], []
    for torch_compile in (True, False):
        keep = KeepGradients()
        arguments = TrainingArguments(
            str(tmp_path),
            torch_compile=torch_compile,
            per_device_train_batch_size=4,
            max_steps=1,
            max_grad_norm=0.0,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        data = {"train_dataset": rows(), "data_collator": collator(), "callbacks": [keep]}
        losses.append(Trainer(model(), arguments, **data).train().training_loss)
        gradients.append({name.removeprefix("_orig_mod."): grad for name, grad in keep.gradients.items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_equal_gradients(*gradients)
