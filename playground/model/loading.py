"""Base models and checkpoints: where they come from, and that they are whole."""

import sys
import threading
import warnings
from pathlib import Path

from playground.model import smollm2
from playground.run import hardware, parallel
from playground.run.artifacts import read_manifest
from playground.run.console import command
from playground.run.errors import UserError
from playground.run.files import MODEL_FILES, read_json, sha256

DEFAULT = "distilgpt2"
EMBEDDED = Path(__file__).parents[2] / "base_model"
PROBE_SECONDS = 3
# Never a pickle; code (.py) runs only where the recipe trusts it.
FILES = (*(f"*{kind}" for kind in MODEL_FILES), "*.py")


def find_base(name):
    """The base model `name` as {"name", "kind", "path"}; kind is "embedded", "package", "folder" or "hub".

    A hub model is taken from the cache, else downloaded. Raises UserError where it cannot be had, except for the
    default one, which the embedded one replaces where the hub cannot be reached.
    """
    if name == "embedded":
        return {"name": name, "kind": "embedded", "path": str(EMBEDDED)}
    if name == "smollm2":
        _quiet()
        return {"name": name, "kind": "package", "path": str(smollm2.find())}
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
        try:
            return {"name": name, "kind": "hub", "path": snapshot_download(name, allow_patterns=FILES)}
        except Exception as error:  # whatever the network or the disk did
            raise UserError(f"--model {name}: cannot be downloaded ({first_line(error)}): try again.") from None
    if name != DEFAULT:
        raise UserError(f"--model {name}: not in the cache, and the hub cannot be reached: use a folder or `embedded`.")
    message = f"{name} is not cached and the hub not reachable: using the embedded model; `smollm2` is a real one."
    print(message, file=sys.stderr)
    return find_base("embedded")


def load(path, settings, base_path=None):
    """(tokenizer, model) as `load_tokenizer` and `load_model` give them, which have to belong together."""
    tokenizer, model = load_tokenizer(path, settings), load_model(path, settings, base_path)
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise UserError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, more tokens than the model ({known}): take its own."
        )
    return tokenizer, model


def load_tokenizer(path, settings=None):
    """The tokenizer in a folder, padding on the left (as generation needs), with a padding token.

    Raises UserError where there is none, or it has no end-of-sequence token.
    """
    _quiet()
    from transformers import AutoTokenizer

    try:
        trusted = bool(settings and settings["model"]["trust_remote_code"])
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", trust_remote_code=trusted)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no tokenizer that can be loaded ({first_line(error)}).") from None
    if tokenizer.eos_token_id is None:
        raise UserError(
            f'{path}: its tokenizer has no end-of-sequence token: name one as "eos_token" in tokenizer_config.json.'
        )
    # Sharing it with end-of-text is safe: labels and masks are built from lengths, never by comparing tokens.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def count_tokens(texts):
    """How many tokens of the embedded base model each text has, without torch, whose import takes a while."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts)]


def load_checkpoint(settings, stage):
    """(tokenizer, model, base) of a training stage's artifact, on the base model that its manifest names.

    Raises UserError where the stage has made no model.
    """
    folder = Path(settings["output_dir"])
    if not (folder / stage / "model").is_dir():
        there = ", ".join(sorted(path.parent.name for path in folder.glob("[0-9]*/model")))
        do = f"take one of {there}" if there else f"run `{command('03_finetune.py')}` first"
        raise UserError(f"{folder / stage} holds no model: {do}.")
    base = find_base(read_manifest(folder, stage)["base_model"]["name"])
    return *load(folder / stage / "model", settings, base["path"]), base


def load_start(settings, stage, tool_file):
    """(tokenizer, model, base) of the stage that another goes on training from; the model is whole.

    A LoRA adapter is merged into the weights and model.use_lora set in the settings: a new adapter goes on top.
    Raises UserError where the stage was trained for other tools than those in tool_file.
    """
    if parallel.shares_weights():
        raise UserError("this stage trains with the whole model in each process: take configs/accelerate/gpus.yaml.")
    manifest = read_manifest(settings["output_dir"], stage)
    trained_for = [digest for name, digest in manifest["inputs"].items() if Path(name).name == "tools.json"]
    if trained_for != [sha256(tool_file)]:
        raise UserError(
            f"{Path(settings['output_dir'], stage)} was trained for other tools than those of {tool_file}: "
            f"run `{command(f'{stage}.py')}` again."
        )
    tokenizer, model, base = load_checkpoint(settings, stage)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload().requires_grad_(True)
    settings["model"]["use_lora"] |= manifest["recipe"]["model"]["use_lora"]
    return tokenizer, model, base


def load_model(path, settings, base_path=None):
    """The causal language model in a folder, in the recipe's dtype, on its device, in evaluation mode, without dropout.

    A LoRA adapter in the folder is put on the model in base_path, trainable. Raises UserError for a model not whole.
    """
    import torch
    from safetensors import SafetensorError

    _quiet()
    from transformers import AutoModelForCausalLM

    hardware.keep_freed()
    section = settings["model"]
    if section["trust_remote_code"]:
        print(f"trust_remote_code is on: {path} may run its own code.", file=sys.stderr)
    if section["device_map"] and parallel.size() > 1:
        raise UserError("model.device_map gives one process all GPUs: set it to null, or start one process.")
    place, adapter = hardware.device(section["device"]), Path(path, "adapter_config.json").exists()
    _require_safetensors(path, "adapter_model.safetensors" if adapter else "*.safetensors")
    if adapter and (not base_path or Path(base_path, "adapter_config.json").exists()):  # which would name its own base
        raise UserError(f"{base_path or path} is an adapter and no whole model: give the model that it was made for.")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            base_path if adapter else path,
            dtype=getattr(torch, "float32" if section["dtype"] == "auto" else section["dtype"]),
            device_map=section["device_map"],
            trust_remote_code=section["trust_remote_code"],
            use_safetensors=True,
            # On a CPU, PyTorch's fused attention is slow backwards in bf16; plain matrix products are not.
            attn_implementation="eager" if place == "cpu" else None,
            ignore_mismatched_sizes=True,  # refused below, like weights that are not there
            output_loading_info=True,
        )
        wrong = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
        if wrong:
            raise ValueError(f"{len(wrong)} weights are not there or of another shape, such as {wrong[0]}")
        if adapter:
            from peft import PeftModel

            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Found missing adapter keys")
                model = PeftModel.from_pretrained(model, path, is_trainable=True)
        if not section["device_map"]:
            model.to(place)
    except (OSError, ValueError, KeyError, RuntimeError, UserWarning, SafetensorError) as error:
        raise UserError(f"{path} holds no model that can be loaded ({first_line(error)}).") from None
    # Drawing dropout's masks takes a CPU a third of a training step of distilgpt2's shape.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # What a checkpoint says of sampling is not used here, and would be warned about.
    model.generation_config.temperature = model.generation_config.top_p = model.generation_config.top_k = None
    torch.manual_seed(settings["seed"])
    return model.eval()


def _require_safetensors(path, weights):
    """Raise UserError where loading a folder would read a pickle: it has no such file, or an index names another."""
    try:
        shards = [name for index in Path(path).glob("*.index.json") for name in read_json(index)["weight_map"].values()]
        if any(Path(path).glob(weights)) and all(name.endswith(".safetensors") for name in shards):
            return
    except (LookupError, TypeError, AttributeError):
        raise UserError(f"{path} holds no model that can be loaded: its index of weights is of another form.") from None
    pickles = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in Path(path).glob(kind))
    why = f"{pickles[0]} is a pickle, which can run code when it is read" if pickles else "it has no .safetensors file"
    raise UserError(f"{path} holds no model that can be loaded: {why}; save the model as safetensors.")


def longest(model):
    """The most tokens that a model reads at once, or None where it sets no limit."""
    return getattr(model.config, "max_position_embeddings", None)


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


def first_line(error):
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
