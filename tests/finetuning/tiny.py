"""Tiny models of transformers on disk, and labels that one embedding can learn: the first letter decides."""

import random

import torch
import transformers

from tests.finetuning.tokenizers import word_piece

WORDS = "an apple is under every old tree near a big house where cats run from dogs while rain falls on it".split()
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
ARCHITECTURES = {
    "Electra": {"embedding_size": 16},
    "Bert": {},
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "ModernBert": {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
}


def config(architecture, **options):
    settings = SIZE | ARCHITECTURES[architecture] | {"vocab_size": len(word_piece()), "pad_token_id": 0}
    return getattr(transformers, f"{architecture}Config")(**settings | options)


def save_encoder(folder, architecture="Electra", *, weights=True):
    """An encoder with random weights, without a head, and its tokenizer."""
    torch.manual_seed(0)
    settings = config(architecture)
    if weights:
        transformers.AutoModel.from_config(settings).save_pretrained(folder)
    else:
        settings.save_pretrained(folder)
    word_piece().save_pretrained(folder)
    return folder


def sentences(count, seed=0):
    draw = random.Random(seed)
    return [draw.choices(WORDS, k=draw.randrange(4, 9)) for _ in range(count)]


def entity_tags(words):
    """Words that begin with c, d or h are entities; further ones behind them belong to the same."""
    tags = []
    for word in words:
        inside = tags and tags[-1] != "O"
        tags.append(("I-X" if inside else "B-X") if word[0] in "cdh" else "O")
    return tags


def binary_tags(words):
    return ["wrong" if word[0] in "tw" else "right" for word in words]


def plain_tags(words):
    return ["V" if word[0] in "aeiou" else "N" if word[0] in "cdh" else "C" for word in words]


def write_conll(path, tags, count=60, seed=0):
    blocks = ("".join(f"{w}\t{t}\n" for w, t in zip(s, tags(s))) for s in sentences(count, seed))
    path.write_text("\n".join(blocks))
    return path


def write_texts(path, count=60, seed=0):
    rows = (f"{'good' if n % 2 else 'bad'},{' '.join(s)}\n" for n, s in enumerate(sentences(count, seed)))
    path.write_text("label,text\n" + "".join(rows))
    return path
