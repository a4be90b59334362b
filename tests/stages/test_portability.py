"""The stages run where there is neither bfloat16 nor float64: on old processors, and on Apple's GPU."""

import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from playground.model import loading
from playground.run import hardware
from tests.conftest import ROOT
from tests.scripts import STAGES, run_here


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


def test_no_stage_makes_float64_or_bfloat16_tensors_where_the_device_may_not_have_them(tmp_path, without_bf16):
    run_here("02_create_dataset", tmp_path)
    for stage in STAGES[2:]:
        with Dtypes() as dtypes:
            run_here(stage, tmp_path, *(("--epochs", "1") if stage == "03_finetune" else ()))
        assert not dtypes.found, stage


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
