"""What a run works on: the device, the numbers it is fast with, and its memory."""

import contextlib
import ctypes
import os
import re
import sys

from playground.run.errors import UserError

# PyTorch's threads wait for each other by spinning, 300,000 times before they sleep, and so hold the cores that they
# wait for. Seconds to answer 256 requests with the embedded model on two threads, alone and beside a busy program: 6.6
# and 9 at 1,000 spins, 5 and 17 at 20,000, 5 and 40 to 57 at 300,000. Read by libgomp when torch is loaded, which is
# after this module.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

PADDED_TO = 16  # tokens to which batches are widened: of fewer sizes, what one step has freed fits the next
KERNELS = 64  # of oneDNN's: those of a few widths


def peak_mb():
    """The most memory (MB) used so far: the GPU's where one is used, else this process's."""
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6  # in bytes there, in KiB elsewhere


@contextlib.contextmanager
def explain_oom(key="", batch_size=1):
    """A block in which too little memory is a UserError; recipe key `key` is the size of a batch that it reads."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # "CUDA out of memory", "MPS backend out of memory", "DefaultCPUAllocator: can't allocate memory"
        if isinstance(error, RuntimeError) and not re.search("out of memory|DefaultCPUAllocator", str(error)):
            raise
        smaller = "try --set model.use_lora=true, or take a smaller model"
        advice = f"try --set {key}={batch_size // 2}" if batch_size > 1 else smaller
        raise UserError(f"out of memory{key and f' with {key}={batch_size}'}: {advice}.") from None


def keep_freed():
    """Tell glibc to keep what is freed for the next step, and oneDNN to keep few kernels. Before any computation.

    A training step frees and takes the same large blocks again and again; by default glibc maps and zeroes each anew.
    Kept, a step of the embedded model's shape was 1.7 times as fast on a CPU. oneDNN compiles a kernel for each shape
    that it meets, and answers have many: keeping 1,024, its default, stage 07 took 1.97 GB instead of 1.71.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    mmap_max, trim_threshold = -4, -1  # from malloc.h
    _ask_glibc("mallopt", mmap_max, 0)
    _ask_glibc("mallopt", trim_threshold, 1 << 30)


def release_freed():
    """Return to the system what glibc has kept, between two kinds of work whose blocks fit badly into each other's."""
    _ask_glibc("malloc_trim", 0)


def _ask_glibc(function, *numbers):
    if sys.platform == "linux" and (known := getattr(ctypes.CDLL(None), function, None)):
        known(*numbers)


def trainer_settings(model):
    """What TRL's trainers are told for the machine's sake, whatever the method is."""
    return {
        "use_cpu": model.device.type == "cpu",
        "activation_checkpointing": False,  # it saves memory that these models do not need, for a third of the time
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        "max_length": None,  # what is too long has been left out, and counted
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": False,
    }


def device(name="auto"):
    """What models run on; `auto` takes a CUDA GPU where there is one. Raises UserError for one that is not there.

    `mps`, Apple's GPU, has to be asked for: nobody has measured yet whether it is faster for these models.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there[name]:
        raise UserError(f"model.device is {name}, and this machine has none: set model.device=auto or cpu.")
    return name


def placement(model):
    """Where a model is and what numbers it has, for a manifest."""
    return {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}


def has_bf16():
    """Whether the device of the models loaded multiplies bfloat16 matrices in hardware, so that autocast pays."""
    import torch

    if torch.cuda.is_initialized():  # there may be a GPU that the recipe does not use
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # The processor can be told to PyTorch's libraries as an older one, and then they do not use what it has.
    allowed = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return allowed and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fast_dtype():
    """The dtype in which the device of the models loaded multiplies matrices fastest."""
    import torch

    return torch.bfloat16 if has_bf16() else torch.float32


def half_precision(device):
    """Autocast to bfloat16 on a device ("cpu", "cuda") where that pays; it changes nothing elsewhere."""
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=has_bf16())
