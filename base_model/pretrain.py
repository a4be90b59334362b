"""Pretrain the embedded base model: a 7.5-million-parameter Llama that can read, a little, and copy.

    python base_model/pretrain.py --corpus DIR --out DIR --layers 6     # 90 minutes on 2 cores with AVX512-BF16
    # 13 minutes on an H100 with 16 cores beside it, which make the lessons
    python base_model/pretrain.py --corpus DIR --out DIR --layers 6 --tokens 65536 --mix-steps 1700 --recall-steps 13000

DIR is any folder of .txt files with a blank line between documents. Four phases:

1. *text*: dialogue only, so that there is something for attention to look at.
2. *copy*: short spans said twice, loss on the second saying only. Somewhere here *induction heads*
   form (Olsson et al. 2022, arXiv:2209.11895): "find the last place where this token stood, and say
   what came next". Copying an address from a request into a call is that and nothing else, and plain
   text alone does not teach it at this size. It is a phase change whose moment varies, so the probe
   decides when the phase is over, not the clock.
3. *mix*: all of the text, one batch in four of repeats, so that copying stays.
4. *recall*: lessons (lessons.py) between text and repeats: a sentence with a question about itself
   ("what followed the word `at`?", "which address is in it?"), one with blanks and what fills them, rows
   of fields, numbers and sums; most of what is asked for is made up of pieces of words, or two phrases in
   one. To copying this adds where a copied phrase begins and where it ends, even at a name that no text
   has. The learning rate falls to zero.

Two choices make copying cheap for a model this small. Positions are rotary, so "the token before this
one" is one rotation to learn rather than one lesson for each position. And the tokenizer (corpus.py) gives
a word the same tokens wherever it stands: GPT-2 has one token for " Paris" after a space and others for
"Paris" after a quotation mark, so copying a city between quotation marks means knowing how it is spelt;
here the space is its own token, except after a closed list of function words and after punctuation.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from corpus import DIALOGUE, VOCABULARY, choose, read_documents, token_stream, train_tokenizer
from lessons import copy_batch, lesson_batch, random_span, text_batch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, LlamaConfig

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ATTENTION = "eager" if DEVICE.type == "cpu" else "sdpa"
TOKENS = 8192  # a step of the first two phases
WARMUP_STEPS = 50
LONG_WINDOW_FROM = 0.8  # of the last phase; windows are twice as long from there on
ACCENTED_PLACES = ["Kraków", "Düsseldorf", "Reykjavík", "Trois-Rivières", "Ciudad Juárez", "Plzeň", "Besançon", "Évora"]
ADDRESSES = ["o.brandt@kelp-works.io", "yuki_77@postmill.co.jp", "t.f.moss+news@quarry.ac.uk", "ninafay@zinc.dev"]


def build_model(tokenizer, layers):
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)


@torch.no_grad()
def second_saying_loss(model, spans, gap):
    """`spans`: token lists of one length. The first token of the repeat cannot be known and is not counted."""
    ids = torch.tensor([span + gap + span for span in spans], device=model.device)
    logits = model(input_ids=ids).logits.float()
    begin = len(spans[0]) + len(gap) + 1
    return F.cross_entropy(logits[:, begin - 1 : -1].flatten(0, 1), ids[:, begin:].flatten()).item()


def probe(model, tokenizer, stream):
    """Mean loss (nats a token) on the second saying of a span, after five other words: {span: loss}."""
    rng = random.Random(1)
    gap = tokenizer("! And so he said: ")["input_ids"]
    spans = {
        f"{kind}, {n} tokens": [random_span(stream, n, kind, rng) for _ in range(32)]
        for kind in ("random", "text")
        for n in (12, 60)
    }
    losses = {name: second_saying_loss(model, rows, gap) for name, rows in spans.items()}
    for name, texts in (("accented places", ACCENTED_PLACES), ("addresses", ADDRESSES)):
        losses[name] = mean(second_saying_loss(model, [tokenizer(text)["input_ids"]], gap) for text in texts)
    return losses


@torch.no_grad()
def held_out_loss(model, stream, rows=64, window=256):
    """Mean loss (nats a token) on text that training never saw."""
    batch, _ = text_batch(stream, rows, window, random.Random(2))
    return mean(model(input_ids=part, labels=part).loss.item() for part in batch.to(model.device).split(16))


class Trainer:
    """One step at a time: Muon for the matrices inside, AdamW for the rest, bf16 autocast."""

    def __init__(self, model, lr, compiled):
        inside = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
        rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
        self.optimizers = [
            torch.optim.Muon(inside, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]
        self.model, self.lr, self.steps = model, lr, 0
        self.loss = torch.compile(self._loss, dynamic=False) if compiled else self._loss

    def _loss(self, batch, labels):
        hidden = self.model.model(input_ids=batch, use_cache=False).last_hidden_state[:, :-1]
        logits = F.linear(hidden, self.model.lm_head.weight).float()
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def step(self, batch, mask, lr_scale=1.0):
        """One optimizer step on tokens (rows, window), loss where the mask is True; returns the loss, a tensor."""
        self.steps += 1
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * lr_scale * min(1, self.steps / WARMUP_STEPS)
        labels = torch.where(mask[:, 1:], batch[:, 1:], -100).to(DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = self.loss(batch.to(DEVICE), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()


class Log:
    """Prints and keeps a row of figures every so often, and saves the weights so far."""

    def __init__(self, model, tokenizer, held_out, out):
        self.model, self.tokenizer, self.held_out, self.out = model, tokenizer, held_out, out
        self.rows, self.losses, self.started, self.steps, self.tokens = [], [], time.time(), 0, 0

    def add(self, phase, loss, every, tokens):
        self.steps += 1
        self.tokens += tokens
        self.losses = [*self.losses[-49:], loss]
        if self.steps % every:
            return None
        row = {
            "step": self.steps,
            "phase": phase,
            "train": torch.stack(self.losses).mean().item(),
            "held_out": held_out_loss(self.model, self.held_out),
            **probe(self.model, self.tokenizer, self.held_out),
            "tokens": self.tokens,
            "seconds": round(time.time() - self.started),
        }
        self.rows.append(row)
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        self.model.save_pretrained(self.out)
        return row


class Lessons:
    """The batches of a phase by their number, so that several processes can make them side by side."""

    def __init__(self, phase, steps, tokens, stream, passages, tokenizer):
        self.phase, self.steps, self.tokens = phase, steps, tokens
        self.stream, self.passages, self.tokenizer = stream, passages, tokenizer

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        rng = random.Random(f"{self.phase} {step}")
        long = self.phase == "recall" and step >= LONG_WINDOW_FROM * self.steps
        window = 512 if long else 256
        rows = self.tokens // window
        if step % (4 if self.phase == "mix" else 8) == 3:
            return copy_batch(self.stream, rows, window, rng, longest=rng.choice((12, 30, 60)))
        if self.phase == "mix" or step % 4 == 1:
            return text_batch(self.stream, rows, window, rng)
        return lesson_batch(self.passages, self.tokenizer, rows, window, rng)


def pretrain(options):
    torch.manual_seed(0)
    rng = random.Random(0)
    documents = read_documents(options.corpus)
    names = [name for name in documents if name in DIALOGUE] or list(documents)
    tokenizer = train_tokenizer([text for train, _ in documents.values() for text in train[::4]])
    texts, dialogue_texts = choose(documents, documents, 0, seed=0), choose(documents, names, 0, seed=1)
    everything, dialogue = token_stream(texts, tokenizer), token_stream(dialogue_texts, tokenizer)
    held_out = token_stream(choose(documents, documents, 1, seed=0), tokenizer)
    passages = [line for text in texts + dialogue_texts for line in text.split("\n") if 25 < len(line) < 300]
    print(f"{len(everything)} tokens of text, {len(dialogue)} of dialogue, {len(passages)} passages", flush=True)
    if options.start:
        model = AutoModelForCausalLM.from_pretrained(options.start, dtype=torch.float32, attn_implementation=ATTENTION)
    else:
        model = build_model(tokenizer, options.layers)
    model.to(DEVICE)
    compiled = not options.no_compile
    # A GPU is done with these small steps before it has compiled them.
    trainer = Trainer(model, options.lr, compiled and DEVICE.type == "cpu")
    log = Log(model, tokenizer, held_out, options.out)

    for _ in range(0 if options.start else options.text_steps):
        log.add("text", trainer.step(*text_batch(dialogue, TOKENS // 256, 256, rng)), 100, TOKENS)

    simple = True
    for _ in range(0 if options.start else options.copy_steps):
        window = 32 if simple else 256
        batch = copy_batch(dialogue, TOKENS // window, window, rng, simple=simple)
        row = log.add("copy", trainer.step(*batch), 25, TOKENS)
        if row:
            simple = simple and row["train"] > 1.0
            if row["text, 12 tokens"] < 0.5 and row["random, 12 tokens"] < 1.0:
                break

    workers = {"num_workers": max(1, os.cpu_count() - 2), "prefetch_factor": 4} if DEVICE.type == "cuda" else {}
    for phase, steps in (("mix", options.mix_steps), ("recall", options.recall_steps)):
        lessons = Lessons(phase, steps, options.tokens, everything, passages, tokenizer)
        trainer = Trainer(model, options.lr, compiled)
        for step, batch in enumerate(DataLoader(lessons, batch_size=None, **workers)):
            scale = 1 - step / steps if phase == "recall" else 1.0
            log.add(phase, trainer.step(*batch, lr_scale=scale), options.log_every, options.tokens)
    return model, tokenizer, log.rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="a folder of .txt files, a blank line between documents")
    parser.add_argument("--out", required=True, help="where the weights and the tokenizer go")
    parser.add_argument("--start", metavar="DIR", help="go on from these weights, after the copy phase")
    parser.add_argument("--layers", type=int, default=8, help="of a new model")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--text-steps", type=int, default=400, help=f"steps of {TOKENS} tokens")
    parser.add_argument("--copy-steps", type=int, default=1000, help="at most; the probe ends the phase")
    parser.add_argument("--mix-steps", type=int, default=1200)
    parser.add_argument("--recall-steps", type=int, default=1500)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="a step of mix and recall; a GPU wants more")
    parser.add_argument("--log-every", type=int, default=200, help="steps of mix and recall")
    parser.add_argument("--no-compile", action="store_true", help="where there is no C++ compiler")
    options = parser.parse_args()
    model, tokenizer, history = pretrain(options)
    model.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    Path(options.out, "history.json").write_text(json.dumps(history, indent=1) + "\n")
