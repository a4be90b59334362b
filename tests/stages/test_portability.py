"""The stages run where there is neither bfloat16 nor float64: on old processors, and on Apple's GPU."""

import contextlib
import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from playground.model import loading
from playground.run import hardware
from tests.conftest import ROOT, save_random_model
from tests.scripts import STAGES, metrics, run_here


class Dtypes(TorchDispatchMode):
    """Notes which operation makes a tensor of a dtype that not every device has."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.float64, torch.bfloat16):
                self.found.setdefault(tensor.dtype, str(func))
        return made


@pytest.fixture(scope="module")
def without_bf16():
    """As on a processor without it; weights come from files on a CPU, whatever the model runs on."""
    with pytest.MonkeyPatch.context() as patch:
        load = loading.load_model

        @functools.wraps(load)
        def load_elsewhere(*arguments):
            with _disable_current_modes():
                return load(*arguments)

        patch.setattr(hardware, "has_bf16", lambda: False)
        patch.setattr(loading, "load_model", load_elsewhere)
        yield


SIZES = {
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 512},
    "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "max_position_embeddings": 512},
}  # fmt: skip


@pytest.mark.parametrize("architecture", SIZES)
def test_the_sequence_runs_on_a_small_model_and_makes_no_float64_or_bfloat16(
    tmp_path, without_bf16, tokenizer, architecture
):
    model = save_random_model(tmp_path / architecture, tokenizer, architecture, **SIZES[architecture])
    as_embedded = ("--epochs", "1", "--set", "sft.optimizer=muon", "--set", "sft.average_from=0.4")
    for stage in STAGES:
        with Dtypes() if stage > "03" else contextlib.nullcontext() as dtypes:
            run_here(stage, tmp_path / "outputs", *(as_embedded if stage == "03_finetune" else ()), model=model)
        assert not (dtypes and dtypes.found), stage
    cells = metrics(tmp_path / "outputs", "08_evaluate")["splits"]["test"]["sft"]
    assert cells["constrained"]["schema_validity"]["value"] == 1.0


def test_apples_gpu_has_to_be_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware.device("auto") == "cpu" and hardware.device("mps") == "mps"


def test_bf16_is_used_only_where_pytorch_may_use_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not hardware.has_bf16()


def test_make_runs_the_embedded_model_and_any_other_in_a_folder_of_its_own():
    import subprocess

    def said(*arguments):
        return subprocess.run(["make", "-n", "run", *arguments], cwd=ROOT, capture_output=True, text=True).stdout

    assert "--model embedded --output-dir outputs " in said().replace("  ", " ") + " "
    assert "--model smollm2 --output-dir outputs-smollm2" in said("MODEL=smollm2").replace("  ", " ")
    assert "--output-dir outputs-someone-model" in said("MODEL=someone/model")
