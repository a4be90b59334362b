"""Base models and checkpoints: where they come from, what they run on, in which numbers."""

import ctypes
import sys
import threading
import warnings
from pathlib import Path

from playground.artifacts import UserError, read_manifest, require

DEFAULT = "distilgpt2"
EMBEDDED = Path(__file__).parents[1] / "base_model"
PROBE_SECONDS = 3
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # never a pickle


def find_base(name):
    """The base model `name` as {"name", "kind", "path"}; kind is "embedded", "folder" or "hub".

    A hub model is taken from the cache, else downloaded. Where the hub cannot be reached, the default
    model is replaced by the embedded one (with a line that says so); for any other name that is a UserError.
    """
    if name == "embedded":
        return {"name": name, "kind": "embedded", "path": str(EMBEDDED)}
    if Path(name).is_dir():
        return {"name": name, "kind": "folder", "path": str(Path(name))}
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        cached = snapshot_download(name, local_files_only=True, allow_patterns=FILES)
        if any(Path(cached).glob("*.safetensors")):
            return {"name": name, "kind": "hub", "path": cached}
    except LocalEntryNotFoundError:
        pass  # not in the cache: ask the hub
    except HFValidationError:
        raise UserError(f"--model {name}: neither a folder nor a name on the hub.") from None
    # The hub client retries for a minute before it says that there is no network: ask once, briefly.
    answer = within(PROBE_SECONDS, lambda: HfApi().model_info(name, timeout=PROBE_SECONDS))
    if isinstance(answer, RepositoryNotFoundError):
        raise UserError(f"--model {name}: the hub has no such model: check the name.")
    if not isinstance(answer, Exception):
        return {"name": name, "kind": "hub", "path": snapshot_download(name, allow_patterns=FILES)}
    if name != DEFAULT:
        raise UserError(f"--model {name}: not in the cache, and the hub cannot be reached: use a folder or `embedded`.")
    print(f"{name} is not in the cache and the hub cannot be reached: using the embedded base model.", file=sys.stderr)
    return find_base("embedded")


def load_tokenizer(path):
    """The tokenizer in a folder, padding on the left (as generation needs), with a padding token."""
    _quiet()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no tokenizer that can be loaded ({_first_line(error)}).") from None
    # Sharing the padding token with end-of-text is safe here because labels and attention masks are always
    # built from lengths, never by comparing tokens with the padding token.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def count_tokens(texts):
    """How many tokens of the embedded base model each text has; [] where that tokenizer is not there.

    Counting alone needs no torch, whose import takes longer than making a dataset.
    """
    from tokenizers import Tokenizer

    path = EMBEDDED / "tokenizer.json"
    return (
        [len(encoding.ids) for encoding in Tokenizer.from_file(str(path)).encode_batch(texts)] if path.exists() else []
    )


def load_checkpoint(recipe, stage):
    """(tokenizer, model, base) of a training stage's artifact, on the base model that its manifest names."""
    base = find_base(read_manifest(recipe["output_dir"], stage)["base_model"]["name"])
    path = require(recipe["output_dir"], stage, "model")
    return load_tokenizer(path), load_model(path, recipe, base["path"]), base


def load_model(path, recipe, base_path=None):
    """The causal language model in a folder, in the recipe's dtype, on its device, in evaluation mode, without dropout.

    Where the folder holds a LoRA adapter, it is put on the model in base_path, trainable.
    """
    import torch
    from safetensors import SafetensorError

    _quiet()
    from transformers import AutoModelForCausalLM

    keep_freed_memory()
    settings = recipe["model"]
    if settings["trust_remote_code"]:
        print(f"trust_remote_code is on: {path} may run its own code.", file=sys.stderr)
    adapter = Path(path, "adapter_config.json").exists()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base_path if adapter else path,
            dtype=weights_dtype(settings["dtype"]),
            device_map=settings["device_map"],
            trust_remote_code=settings["trust_remote_code"],
            use_safetensors=True,
            # On a CPU, PyTorch's fused attention is slow backwards in bf16; plain matrix products are not.
            attn_implementation="eager" if device() == "cpu" else None,
        )
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, path, is_trainable=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path} holds no model that can be loaded ({_first_line(error)}).") from None
    if not settings["device_map"]:
        model.to(device())
    # Drawing dropout's masks takes a CPU a third of a training step of distilgpt2's shape.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # What a checkpoint says of sampling is not used here, and would be warned about.
    model.generation_config.temperature = model.generation_config.top_p = model.generation_config.top_k = None
    torch.manual_seed(recipe["seed"])
    return model.eval()


def device():
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def weights_dtype(name):
    """The dtype that weights are kept in. Training keeps float32 and computes in bf16 where `has_bf16`."""
    import torch

    return torch.float32 if name == "auto" else getattr(torch, name)


def has_bf16():
    """Whether this machine multiplies bfloat16 matrices in hardware, so that autocast pays."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def peak_memory_mb():
    """The most memory (MB) used so far: the GPU's where there is one, else this process's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere


def add_lora(model, recipe):
    """The model with trainable low-rank adapters on the layers that the recipe names."""
    from peft import LoraConfig, get_peft_model

    settings = recipe["model"]
    config = LoraConfig(
        r=settings["lora_rank"],
        lora_alpha=settings["lora_alpha"],
        target_modules=settings["lora_targets"],
        # GPT-2 keeps its weights transposed (Conv1D), and PEFT must know.
        fan_in_fan_out=model.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def keep_freed_memory():
    """Tell glibc to keep what is freed for the next step rather than return it to the system.

    A training step frees and takes the same large blocks again and again; by default each is mapped and
    zeroed anew. The same two settings, made through glibc's environment variables, made a step of the embedded
    model's shape 1.7 times as fast on a CPU.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:
            mmap_max, trim_threshold = -4, -1  # from malloc.h
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, 1 << 30)


def release_freed_memory():
    """Return to the system what glibc has kept, between two kinds of work whose blocks fit badly into each other's."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim:
            malloc_trim(0)


def within(seconds, ask):
    """ask()'s answer or the exception it raised, or a TimeoutError; name look-ups have no time limit of their own."""
    answer = [TimeoutError()]

    def work():
        try:
            answer[0] = ask()
        except Exception as error:  # whatever the network did, the caller decides
            answer[0] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]


def _quiet():
    """Loading takes a moment here: no bars for it, and no warnings that a reader can do nothing about."""
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")  # one library about another
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _first_line(error):
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


if __name__ == "__main__":
    from playground import artifacts, export

    artifacts.run(export.main)
