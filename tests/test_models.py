"""Where models come from: the hub's cache, a folder, or the repository; never a guess."""

import shutil

import pytest
from conftest import save_random_model

from playground import models, recipe
from playground.artifacts import UserError


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An empty cache and a hub at an address where nothing listens."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "cache"


def cache_model(cache, name, folder):
    """Lay a folder into a hub cache the way the hub client does."""
    repository = cache / f"models--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))


def test_without_a_hub_the_default_becomes_the_embedded_model_and_one_line_says_so(no_hub, capsys):
    base = models.find_base("distilgpt2")
    assert base == {"name": "embedded", "kind": "embedded", "path": str(models.EMBEDDED)}
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_hub_any_other_name_is_one_sentence(no_hub):
    with pytest.raises(UserError, match="the hub cannot be reached"):
        models.find_base("someone/something")
    with pytest.raises(UserError, match="neither a folder nor a name"):
        models.find_base("no such/folder/any where")


def test_distilgpt2_in_the_cache_is_used_with_its_own_shape(no_hub, tmp_path, gpt2_tokenizer):
    """distilgpt2's configuration (6 layers of 768, 82 M parameters) with random weights: the hub is out of reach."""
    save_random_model(tmp_path / "distil", gpt2_tokenizer, "gpt2", n_layer=6)
    cache_model(no_hub, "distilgpt2", tmp_path / "distil")
    base = models.find_base("distilgpt2")
    assert base["kind"] == "hub"
    model = models.load_model(base["path"], recipe.load())
    assert 81e6 < sum(p.numel() for p in model.parameters()) < 83e6
    assert models.load_tokenizer(base["path"])("Oslo")["input_ids"] == gpt2_tokenizer("Oslo")["input_ids"]


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    assert models.find_base(str(tmp_path))["kind"] == "folder"
    with pytest.raises(UserError, match="no tokenizer that can be loaded"):
        models.load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no model that can be loaded"):
        models.load_model(tmp_path, recipe.load())


def test_pickled_weights_are_refused(tmp_path, tokenizer):
    import torch

    save_random_model(tmp_path, tokenizer, "llama", hidden_size=16, num_hidden_layers=1, intermediate_size=16,
                      num_attention_heads=2)  # fmt: skip
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="no model that can be loaded"):
        models.load_model(tmp_path, recipe.load())


def test_the_embedded_model_is_small_and_bf16():
    weights = models.EMBEDDED / "model.safetensors"
    assert weights.stat().st_size <= 16e6
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


@pytest.mark.parametrize("text", ["User: 15% of São Paulo's e-mails?\n\tCall:", '{"a": "日本 🎉"}', "the  of \n\n a"])
def test_the_embedded_tokenizer_gives_every_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_word_has_the_same_tokens_after_a_space_and_after_a_quotation_mark(tokenizer):
    for word in ("Reykjavík", "Paris", "jack@gmail.com", "Trois-Rivières"):
        ids = tokenizer(word)["input_ids"]
        for text in (f"weather in {word} now", f'"city": "{word}"', f"({word})"):
            whole = tokenizer(text)["input_ids"]
            assert any(whole[i : i + len(ids)] == ids for i in range(len(whole))), text


def test_lora_reaches_every_linear_layer_of_gpt2_too(tmp_path, tokenizer):
    save_random_model(tmp_path, tokenizer, "gpt2", n_layer=1, n_embd=16, n_head=2, n_positions=64)
    settings = recipe.load()
    model = models.add_lora(models.load_model(tmp_path, settings), settings)
    adapted = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"c_attn", "c_proj", "c_fc"}


def test_a_model_that_was_made_with_dropout_trains_without(tmp_path, tokenizer):
    import torch

    save_random_model(tmp_path, tokenizer, "gpt2", n_layer=1, n_embd=16, n_head=2, n_positions=64)
    model = models.load_model(tmp_path, recipe.load()).train()
    ids = torch.tensor([tokenizer("the same text twice")["input_ids"]])
    assert torch.equal(model(ids).logits, model(ids).logits)
