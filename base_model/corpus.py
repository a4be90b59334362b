"""The text that the embedded base model reads, and the tokenizer made from it."""

import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 4096
DIALOGUE = ("sgd", "taskmaster", "persona_chat")
# How often each file is read (3 times where not named): dialogue brings the language of requests; the technical
# files are large and bring rare tokens.
WEIGHTS = {"taskmaster": 6, "persona_chat": 6, "wikipedia_sentences": 6, "peps": 1, "rfcs": 1, "speeches": 1.5}
HELD_OUT = 0.01  # share of every file's documents that training never sees
# A space sticks to the function word before it: such a word hardly ever ends an argument.
FUNCTION_WORDS = """a an the of to in on at for from with by about as into over after and or but if so than that
    this these those it its is are was were be been am do does did has have had will would can could should may
    i you he she we they me him her us them my your his their our what which who how when where why not no yes
    please""".split()
PIECES = (
    rf"(?<![\p{{L}}\p{{N}}])(?i:{'|'.join(sorted(FUNCTION_WORDS, key=len, reverse=True))}) (?! )"
    r"|'(?i:s|t|re|ve|m|ll|d)(?!\p{L}) ?|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+ ?| +|\s+"
)


def read_documents(corpus):
    """{file stem: (training documents, held-out documents)} of a folder of .txt files."""
    documents = {}
    for path in sorted(Path(corpus).glob("*.txt")):
        texts = [text for text in path.read_text(encoding="utf-8").split("\n\n") if text.strip()]
        random.Random(0).shuffle(texts)
        cut = max(1, int(len(texts) * HELD_OUT))
        documents[path.stem] = (texts[cut:], texts[:cut])
    if not documents:
        raise SystemExit(f"{corpus} holds no .txt files: give a folder of plain text, a blank line between documents.")
    return documents


def train_tokenizer(texts):
    """A byte-level BPE that splits as `PIECES` says; every string decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def choose(documents, names, part, seed):
    """The documents of the named files, each file as often as its weight says, shuffled."""
    texts, rng = [], random.Random(seed)
    for name in names:
        chosen, weight = documents[name][part], WEIGHTS.get(name, 3)
        texts += chosen * int(weight) + rng.sample(chosen, int(len(chosen) * (weight % 1)))
    rng.shuffle(texts)
    return texts


def token_stream(texts, tokenizer):
    """One long tensor: each text, ended by the end-of-text token."""
    once = list(dict.fromkeys(texts))  # many are read more than once
    encoded = tokenizer.backend_tokenizer.encode_batch(once)
    ids = {
        text: torch.tensor([*row.ids, tokenizer.eos_token_id], dtype=torch.int32)
        for text, row in zip(once, encoded, strict=True)
    }
    return torch.cat([ids[text] for text in texts])
