# make          every stage whose script, shared code, recipe or input has changed
# make run      the same, ending with the results table; MODEL=smollm2 or another takes that model, in its own folder
# make verify   is what is there whole, and made from what is there?
# make test     the tests (offline)
# make bench    the benchmarks of speed, into bench/results.md; two need GPT2=FOLDER with GPT-2's vocab.json, merges.txt

PYTHON ?= python3
MODEL ?= embedded
OUT ?= outputs$(if $(filter-out embedded,$(MODEL)),-$(subst /,-,$(MODEL)))
CONFIG ?= configs/default.json
RUN = .venv/bin/python
FLAGS = --config $(CONFIG) --model $(MODEL) --output-dir $(OUT) $(ARGS)
SHARED = tools.py $(wildcard playground/*.py playground/run/*.py playground/model/*.py playground/judge/*.py) \
	$(wildcard playground/report/*.py) playground/data/augment.py playground/data/slots.py configs/tools.json .venv/installed
GRAMMAR = $(wildcard playground/grammar/*.py)
DATA = $(wildcard playground/data/*.py playground/data/*.json* playground/data/*/*.py)
# What `verify` finds changed is made again too, such as an artifact that was edited: dates do not show all.
CHANGED := $(shell test -d $(OUT) && $(RUN) -m playground verify $(OUT) 2>/dev/null | sed '/: fine$$/d; s/:.*//')

all: $(OUT)/01_baseline/manifest.json $(OUT)/04_inference/manifest.json $(OUT)/05_constrained/manifest.json $(OUT)/08_evaluate/manifest.json

run: said all
	@$(if $(SHOWN),,$(RUN) -m playground summary $(OUT) && echo && echo "Report: $(OUT)/08_evaluate/report.html")

said: .venv/installed
	@$(RUN) -m playground expected $(MODEL)
	@echo "What is up to date is not made again."

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt .venv/installed
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(OUT)/01_baseline/manifest.json: 01_baseline.py $(SHARED) $(DATA)
	$(RUN) $< $(FLAGS)

$(OUT)/02_create_dataset/manifest.json: 02_create_dataset.py $(SHARED) $(DATA)
	$(RUN) $< $(FLAGS)

$(OUT)/03_finetune/manifest.json: 03_finetune.py $(SHARED) $(OUT)/02_create_dataset/manifest.json
	$(RUN) $< $(FLAGS)

$(OUT)/04_inference/manifest.json: 04_inference.py configs/requests.jsonl $(SHARED) $(GRAMMAR) $(OUT)/03_finetune/manifest.json
	$(RUN) $< $(FLAGS)

$(OUT)/05_constrained/manifest.json: 05_constrained.py $(SHARED) $(GRAMMAR) $(OUT)/03_finetune/manifest.json
	$(RUN) $< $(FLAGS)

$(OUT)/06_dpo/manifest.json: 06_dpo.py $(SHARED) $(OUT)/03_finetune/manifest.json
	$(RUN) $< $(FLAGS)

$(OUT)/07_ppo/manifest.json: 07_ppo.py $(SHARED) $(OUT)/03_finetune/manifest.json
	$(RUN) $< $(FLAGS)

$(OUT)/08_evaluate/manifest.json: 08_evaluate.py playground/report/page.html $(SHARED) $(GRAMMAR) $(OUT)/06_dpo/manifest.json $(OUT)/07_ppo/manifest.json
	$(RUN) $< $(FLAGS)
	$(eval SHOWN := the table, by the script itself)

$(CHANGED:%=$(OUT)/%/manifest.json): again

again:

verify:
	$(RUN) -m playground verify $(OUT)

test: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pytest -m "not slow" -n 2 --dist worksteal

test-slow: .venv/installed-dev
	.venv/bin/pytest -m slow

bench: .venv/installed-dev
	@printf '# Benchmarks\n\nBy `make bench`. The claims are ratios; times are for orientation.\n\n```text\n' > bench/results.new
	@(date +%F; lscpu 2>/dev/null | grep "Model name"; $(RUN) -c "import torch; print(torch.get_num_threads(), 'threads')"; \
	  .venv/bin/pip freeze | grep -E '^(torch|transformers|trl|xgrammar|llguidance)=='; echo) >> bench/results.new
	$(RUN) bench/processors.py >> bench/results.new
	$(RUN) bench/generation.py --sft $(OUT)/03_finetune/model >> bench/results.new
	$(if $(GPT2),$(RUN) bench/grammar.py --tokenizer $(GPT2) >> bench/results.new)
	$(if $(GPT2),$(RUN) bench/training.py --tokenizer $(GPT2) >> bench/results.new)
	@echo '```' >> bench/results.new
	@mv bench/results.new bench/results.md
	@cat bench/results.md

clean:
	rm -rf $(OUT)

.PHONY: all run said again verify test test-slow bench clean
.DELETE_ON_ERROR:
