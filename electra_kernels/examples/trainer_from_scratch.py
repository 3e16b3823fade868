"""Pre-train ModernBERT from scratch by replaced-token detection, with Trainer.

Rotary positions and pre-norm learn within minutes where absolute positions stay on a plateau for a while.
"""

from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForTokenClassification,
    Trainer,
    set_seed,
)

from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.examples.text import for_transformers, parser, read_corpus, rows_of, training_arguments
from electra_kernels.integrations import (
    DataCollatorForReplacedTokens,
    ReplacedTokenDetection,
    compute_metrics,
)

VOCABULARY, LENGTH = 8_000, 64


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__, steps=1_000).parse_args(arguments)
    set_seed(0)
    corpus = read_corpus(options.text)
    vocabulary = train_vocabulary(corpus.train, VOCABULARY)
    tokenizer = for_transformers(vocabulary)

    def config(layers: int) -> ModernBertConfig:
        return ModernBertConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            initializer_range=0.09,
        )

    # Both share the word embedding, so ModernBERT's generator is smaller in depth, not in width.
    generator, discriminator = config(2), config(4)
    discriminator.num_labels = 1
    model = ReplacedTokenDetection(
        ModernBertForMaskedLM(generator),
        ModernBertForTokenClassification(discriminator),
        tokenizer=tokenizer,
        rtd_weight=10.0,
    )
    trainer = Trainer(
        model,
        training_arguments(options, learning_rate=2e-3),
        train_dataset=rows_of(corpus.train, vocabulary, LENGTH),
        eval_dataset=rows_of(corpus.held_out, vocabulary, LENGTH, most=256),
        data_collator=DataCollatorForReplacedTokens(tokenizer),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    trainer.evaluate()
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output / "discriminator")


if __name__ == "__main__":
    main()
