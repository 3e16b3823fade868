"""Pre-train two Hugging Face models by replaced-token detection in a training loop of your own."""

from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining, set_seed

from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.examples.common import argument_parser, read_corpus, token_rows, transformers_tokenizer
from electra_kernels.integrations import DataCollatorForReplacedTokens, ReplacedTokenDetection


def electra_config(vocab_size: int, width: int) -> ElectraConfig:
    return ElectraConfig(
        vocab_size=vocab_size,
        embedding_size=128,
        hidden_size=width,
        num_hidden_layers=4,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        initializer_range=0.06,
    )


def main(arguments: list[str] | None = None) -> None:
    options = argument_parser(__doc__, steps=300).parse_args(arguments)
    set_seed(0)
    corpus = read_corpus(options.text)
    vocabulary = train_vocabulary(corpus.train, 8_000)
    tokenizer = transformers_tokenizer(vocabulary)
    generator = ElectraForMaskedLM(electra_config(len(tokenizer), 64))
    discriminator = ElectraForPreTraining(electra_config(len(tokenizer), 256))
    model = ReplacedTokenDetection(generator, discriminator, tokenizer=tokenizer)

    collator = DataCollatorForReplacedTokens(tokenizer)
    rows: Any = token_rows(corpus.train, vocabulary, 64)
    loader: DataLoader = DataLoader(rows, options.batch_size, shuffle=True, collate_fn=collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    step = 0
    model.train()
    while step < options.steps:
        for batch in loader:
            output = model(**batch)
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 50 == 0 or step == options.steps:
                print(f"step {step:5}  mlm {output.mlm_loss:.3f}  rtd {output.rtd_loss:.4f}", flush=True)
            if step == options.steps:
                break
    model.save_pretrained(options.output)


if __name__ == "__main__":
    main()
