"""Models and tokenizers that several tests share; what needs ../shared is skipped by name where it is absent."""

import functools
import os
import re
from pathlib import Path

import pytest

# Two test processes on a few cores: more threads than cores make each other wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}
# The pages' code, (page, name on the fence, code): quoted from the file of that name, or for the reader to write.
BLOCKS = [
    (page, *block)
    for page, text in PAGES.items()
    for block in re.findall(r"^```\w+ (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
]
TO_WRITE = {name: code for _, name, code in BLOCKS if not (ROOT / name).exists()}


@functools.cache
def embedded_tokenizer():
    from playground.model import loading

    return loading.load_tokenizer(loading.EMBEDDED)


@pytest.fixture(scope="session")
def tokenizer():
    return embedded_tokenizer()


@pytest.fixture(scope="session")
def base_model():
    from playground.model import loading
    from playground.run import recipe

    return loading.load_model(loading.EMBEDDED, recipe.load())


@pytest.fixture(scope="session")
def gpt2_tokenizer():
    folder = SHARED / "gpt2-tokenizer"
    if not folder.exists():
        pytest.skip("needs ../shared/gpt2-tokenizer")
    from transformers import GPT2Tokenizer

    return GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


def save_random_model(folder, tokenizer, architecture, **sizes):
    """A model folder with random weights of the named architecture ("gpt2" or "llama")."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    torch.manual_seed(0)
    special = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    configuration = {"gpt2": GPT2Config, "llama": LlamaConfig}[architecture]
    config = configuration(vocab_size=len(tokenizer), **special, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
