"""Pre-train ModernBERT from scratch by replaced-token detection, with Trainer.

ModernBERT has rotary positions and pre-norm, which learn within minutes; absolute positions first stay on a plateau.
"""

from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForTokenClassification,
    Trainer,
    set_seed,
)

from electra_kernels.data.vocabulary import train_vocabulary
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

VOCABULARY_SIZE, LENGTH = 8_000, 64


def main(arguments: list[str] | None = None) -> None:
    options = argument_parser(__doc__, steps=1_000).parse_args(arguments)
    set_seed(0)
    corpus = read_corpus(options.text)
    vocabulary = train_vocabulary(corpus.train, VOCABULARY_SIZE)
    tokenizer = transformers_tokenizer(vocabulary)

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

    # ModernBERT's word embedding has the width of the model. Both models share it, so the generator is smaller in
    # depth, not in width.
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
        train_dataset=token_rows(corpus.train, vocabulary, LENGTH),
        eval_dataset=token_rows(corpus.held_out, vocabulary, LENGTH, limit=256),
        data_collator=DataCollatorForReplacedTokens(tokenizer),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    trainer.evaluate()
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output / "discriminator")


if __name__ == "__main__":
    main()
