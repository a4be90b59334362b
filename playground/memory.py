"""How much memory a run takes, keeps and has."""

import contextlib
import ctypes
import os
import re
import sys

from playground.errors import UserError

PADDED_TO = 16  # tokens to which batches are widened: of fewer sizes, what one step has freed fits the next
KERNELS = 64  # of oneDNN's: those of a few widths
LARGE = 2**15  # tokens in a vocabulary from which on logits are most of the memory of a training step


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


def at_once(tokenizer, usual, with_large_vocabulary):
    """How many sequences a training step may read in one forward pass, by the tokenizer's vocabulary."""
    return with_large_vocabulary if len(tokenizer) > LARGE else usual


@contextlib.contextmanager
def enough(key, batch_size):
    """A block that works on batches whose size is recipe key `key`: too little memory for it is a UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # "CUDA out of memory", "MPS backend out of memory", "DefaultCPUAllocator: can't allocate memory"
        if isinstance(error, RuntimeError) and not re.search("out of memory|DefaultCPUAllocator", str(error)):
            raise
        advice = f"try --set {key}={batch_size // 2}" if batch_size > 1 else "take a smaller model"
        raise UserError(f"out of memory with {key}={batch_size}: {advice}.") from None


def keep_freed():
    """Tell glibc to keep what is freed for the next step, and oneDNN to keep few kernels. Before any computation.

    A training step frees and takes the same large blocks again and again; by default glibc maps and zeroes each
    anew. The same two settings, made through glibc's environment variables, made a step of the embedded model's
    shape 1.7 times as fast on a CPU. oneDNN, which multiplies PyTorch's matrices there, compiles a kernel for each
    shape that it meets, and answers have many: keeping 1,024, its default, stage 07 took 1.97 GB instead of 1.71.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mmap_max, trim_threshold = -4, -1  # from malloc.h
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, 1 << 30)


def release_freed():
    """Return to the system what glibc has kept, between two kinds of work whose blocks fit badly into each other's."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim:
            malloc_trim(0)
