"""Where models come from: the hub's cache, a folder, or the repository; never a guess."""

import copy
import http.server
import json
import shutil
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from playground.model import generation, loading, weights
from playground.run import hardware, recipe
from playground.run.errors import UserError
from tests.conftest import save_random_model


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
    base = loading.find_base("distilgpt2")
    assert base == {"name": "embedded", "kind": "embedded", "path": str(loading.EMBEDDED)}
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_hub_any_other_name_is_one_sentence(no_hub):
    with pytest.raises(UserError, match="the hub cannot be reached"):
        loading.find_base("someone/something")
    with pytest.raises(UserError, match="neither a folder nor a name"):
        loading.find_base("no such/folder/any where")


def test_distilgpt2_in_the_cache_is_used_with_its_own_shape(no_hub, tmp_path, gpt2_tokenizer):
    """The kind of model that distilgpt2 is, with random weights: the hub is out of reach."""
    save_random_model(tmp_path / "distil", gpt2_tokenizer, "gpt2", n_layer=1, n_embd=16, n_head=2)
    cache_model(no_hub, "distilgpt2", tmp_path / "distil")
    base = loading.find_base("distilgpt2")
    assert base["kind"] == "hub"
    model = loading.load_model(base["path"], recipe.load())
    assert model.config.model_type == "gpt2" and model.config.n_embd == 16
    assert loading.load_tokenizer(base["path"])("Oslo")["input_ids"] == gpt2_tokenizer("Oslo")["input_ids"]


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    assert loading.find_base(str(tmp_path))["kind"] == "folder"
    with pytest.raises(UserError, match="no tokenizer that can be loaded"):
        loading.load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no model that can be loaded"):
        loading.load_model(tmp_path, recipe.load())


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16, "num_attention_heads": 2}


@pytest.fixture
def tiny(tmp_path, tokenizer):
    """A folder with a model of random weights, in three shards."""
    from transformers import AutoModelForCausalLM

    whole = save_random_model(tmp_path / "whole", tokenizer, "llama", **TINY)
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(tmp_path / "tiny", max_shard_size="100KB")
    tokenizer.save_pretrained(tmp_path / "tiny")
    assert len(list((tmp_path / "tiny").glob("*.safetensors"))) == 3
    return tmp_path / "tiny"


@pytest.fixture
def adapter(tiny):
    """An adapter for the tiny model, beside it."""
    settings = recipe.load()
    weights.add_lora(loading.load_model(tiny, settings), settings).save_pretrained(tiny.with_name("adapter"))
    return tiny.with_name("adapter")


def refusal(folder, base_path=None, **settings):
    loaded = recipe.load(None, [(f"model.{key}", value) for key, value in settings.items()])
    with pytest.raises(UserError) as caught:
        loading.load_model(folder, loaded, base_path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_missing_or_truncated_shard_is_one_sentence(tiny):
    shards = sorted(tiny.glob("*.safetensors"))
    shards[1].write_bytes(shards[1].read_bytes()[:-50])
    assert "no model that can be loaded" in refusal(tiny)
    shards[1].unlink()
    assert shards[1].name in refusal(tiny)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 3}, {"intermediate_size": 32}, {"model_type": "gpt2"}])
def test_weights_of_another_architecture_are_refused_rather_than_filled_up_at_random(tiny, changes):
    loading.load_model(tiny, recipe.load())
    change_config(tiny, **changes)
    assert "weights are not there or of another shape, such as" in refusal(tiny)


def test_an_adapter_that_lacks_weights_is_refused(tiny, adapter):
    from safetensors.torch import load_file, save_file

    loading.load_model(adapter, recipe.load(), tiny)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(min(weights))
    save_file(weights, adapter / "adapter_model.safetensors")
    assert "missing adapter keys" in refusal(adapter, tiny)


def test_pickled_weights_are_refused_in_models_and_in_adapters(tiny, adapter):
    for folder, name in ((adapter, "adapter_model.bin"), (tiny, "pytorch_model.bin")):
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        torch.save({}, folder / name)
        assert f"{name} is a pickle" in refusal(folder, tiny)


def test_a_decoy_does_not_let_a_pickle_in(tiny, adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "decoy.safetensors")
    torch.save({}, adapter / "adapter_model.bin")
    assert "adapter_model.bin is a pickle" in refusal(adapter, tiny)
    index = tiny / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"] = dict.fromkeys(found["weight_map"], "pytorch_model.bin")
    torch.save({}, tiny / "pytorch_model.bin")
    index.write_text(json.dumps(found))
    assert "pytorch_model.bin is a pickle" in refusal(tiny)
    index.write_text("[]")
    assert "its index of weights is of another form" in refusal(tiny)


def test_an_adapter_is_not_taken_for_a_whole_model_whose_base_it_may_name(tiny, adapter):
    assert "is an adapter and no whole model" in refusal(adapter)
    (tiny / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    assert "is an adapter and no whole model" in refusal(adapter, tiny)


def test_a_models_own_code_runs_only_where_the_recipe_trusts_it_and_then_a_line_says_so(
    tiny, tmp_path, capsys, monkeypatch
):
    # The code is imported from a copy that transformers makes, so it leaves its mark in an absolute place.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    ran = tmp_path / "ran"
    (tiny / "own.py").write_text(
        f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n"
        "from transformers import LlamaConfig as Config, LlamaForCausalLM\n"
        "class OwnConfig(Config):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    change_config(tiny, model_type="own", auto_map=own)
    assert "custom code" in refusal(tiny)
    assert not ran.exists()
    capsys.readouterr()
    loading.load_model(tiny, recipe.load(None, [("model.trust_remote_code", True)]))
    assert ran.exists()
    assert capsys.readouterr().err == f"trust_remote_code is on: {tiny} may run its own code.\n"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_one_sentence(monkeypatch, tiny, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert refusal(tiny, device=name).startswith(f"model.device is {name}, and this machine has none")
    assert hardware.device("auto") == hardware.device("cpu") == "cpu"


def test_the_recipe_can_ask_for_the_cpu_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (hardware.device("auto"), hardware.device("cpu")) == ("cuda", "cpu")


def allocate_too_much():
    torch.empty(2**50)


def cuda_out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("fail", [allocate_too_much, cuda_out_of_memory])
def test_too_little_memory_names_the_batch_size_to_try(monkeypatch, tokenizer, base_model, fail):
    monkeypatch.setattr(base_model, "forward", lambda position_ids=None, **_: fail())
    with pytest.raises(UserError, match=r"generate\.batch_size=64: try --set generate\.batch_size=32\.$"):
        generation.generate(base_model, tokenizer, ["Hello!"], recipe.load())
    smallest = r"sft\.micro_batch_size=1: try --set model\.use_lora=true, or take a smaller model"
    with pytest.raises(UserError, match=smallest), hardware.explain_oom("sft.micro_batch_size", 1):
        fail()


def test_another_error_is_not_taken_for_too_little_memory():
    with pytest.raises(RuntimeError, match="shapes"), hardware.explain_oom("sft.micro_batch_size", 8):
        raise RuntimeError("shapes cannot be multiplied")


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub that knows one model, someone/broken, and breaks off when that is downloaded."""

    def do_GET(self):
        first = self.path == "/api/models/someone/broken"
        self.send_response(200 if first else 500 if "broken" in self.path else 404)
        if "broken" not in self.path:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if first:
            self.wfile.write(b'{"id": "someone/broken"}')

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("someone/nothing", "--model someone/nothing: the hub has no such model"),
        ("someone/broken", "--model someone/broken: cannot be downloaded"),
    ],
)
def test_a_model_that_the_hub_does_not_know_or_give_is_one_sentence(no_hub, monkeypatch, name, message):
    from huggingface_hub import constants

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match=message):
            loading.find_base(name)
        server.shutdown()


def test_the_embedded_model_is_small_and_bf16():
    weights = loading.EMBEDDED / "model.safetensors"
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
    model = weights.add_lora(loading.load_model(tmp_path, settings), settings)
    adapted = {name.split(".lora_A")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == {"c_attn", "c_proj", "c_fc"}
    model.save_pretrained(tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert saved == sorted(saved)  # a set's order would be another in each process


def test_a_model_that_was_made_with_dropout_trains_without(tmp_path, tokenizer):
    save_random_model(tmp_path, tokenizer, "gpt2", n_layer=1, n_embd=16, n_head=2, n_positions=64)
    model = loading.load_model(tmp_path, recipe.load()).train()
    ids = torch.tensor([tokenizer("the same text twice")["input_ids"]])
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize(("platform", "told"), [("linux", 1_000_000), ("darwin", 1_024_000_000)])
def test_peak_memory_is_in_units_of_a_million_bytes(monkeypatch, platform, told):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=told))  # in KiB, and in bytes
    assert hardware.peak_mb() == 1024


@pytest.mark.parametrize("share", [0.25, 1])
def test_interpolating_two_models_is_a_share_of_the_way_and_only_for_a_while(tiny, share):
    start, model = (loading.load_model(tiny, recipe.load()) for _ in range(2))
    for parameter in model.parameters():
        parameter.data += 1
    trained = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(RuntimeError, match="on the way"), weights.interpolated(start, model, share):
        for parameter, first in zip(model.parameters(), start.parameters(), strict=True):
            torch.testing.assert_close(parameter, first + share)
        raise RuntimeError("on the way")
    assert all(map(torch.equal, model.parameters(), trained))


def test_interpolating_with_an_adapter_is_a_share_of_what_it_adds(tiny, adapter):
    model, start = loading.load_model(adapter, recipe.load(), tiny), loading.load_model(tiny, recipe.load())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    whole = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    with weights.interpolated(None, model, 0.25):
        part = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    changed = 0
    for name, first in start.named_parameters():
        torch.testing.assert_close(part[name], torch.lerp(first, whole[name], 0.25))
        changed += not torch.equal(whole[name], first)
    assert changed
