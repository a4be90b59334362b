"""The scripts, run the way a reader runs them: in order, each in its own process, with a recipe made for tests."""

import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from playground.judge import scoring
from playground.model import weights
from playground.run import artifacts, locking, recipe
from playground.run.files import read_jsonl, read_records, sha256
from tests.conftest import PAGES, ROOT, SHARED, TO_WRITE, save_random_model
from tests.scripts import STAGES, command, metrics, run, run_all, run_here


def model_hashes(output_dir, stage="03_finetune"):
    outputs = artifacts.read_manifest(output_dir, stage)["outputs"]
    return {name: digest for name, digest in outputs.items() if name.startswith("model/")}


@pytest.fixture(scope="session")
def sequence(tmp_path_factory):
    """(output folder, {stage: what it printed}): run by the first test process that asks, for all of them."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    output_dir, printed = folder / "sequence", folder / "sequence.json"
    with FileLock(folder / "sequence.lock"):
        if not printed.exists():
            done = run_all(output_dir, "embedded")
            printed.write_text(json.dumps({stage: [one.stdout, one.stderr] for stage, one in done.items()}))
    told = json.loads(printed.read_text())
    return output_dir, {stage: SimpleNamespace(stdout=out, stderr=err) for stage, (out, err) in told.items()}


def test_every_stage_leaves_a_whole_artifact_and_names_the_next_command(sequence):
    output_dir, done = sequence
    for stage, following in zip(STAGES, [*STAGES[1:], None], strict=True):
        manifest = artifacts.read_manifest(output_dir, stage)
        for name, digest in manifest["outputs"].items():
            assert sha256(output_dir / stage / name) == digest
        assert not (output_dir / f"{stage}.partial").exists()
        assert f"python {following}.py" in done[stage].stdout if following else "report.md" in done[stage].stdout
        assert "Traceback" not in done[stage].stderr
        assert "Warning" not in done[stage].stderr, done[stage].stderr


def test_the_grid_has_every_model_and_decoding_and_under_a_grammar_all_is_valid(sequence):
    grid = metrics(sequence[0], "08_evaluate")["splits"]["test"]
    assert list(grid) == ["base", "sft", "dpo", "ppo"]
    for cells in grid.values():
        assert list(cells) == ["free", "constrained", "grounded"]
        for decoding in ("constrained", "grounded"):
            assert cells[decoding]["schema_validity"]["value"] == 1.0
            assert cells[decoding]["n"] == cells["free"]["n"] == 8
        assert set(scoring.METRICS) < set(cells["free"])
    assert grid["base"]["free"]["schema_validity"]["value"] <= 0.02


def test_the_evaluation_has_intervals_samples_costs_and_differences_for_each_split(sequence):
    found = metrics(sequence[0], "08_evaluate")
    assert set(found["splits"]) == set(found["differences"]) == {"test", "test_wild"}
    cell = found["splits"]["test_wild"]["sft"]["free"]
    assert set(cell["exact_call"]) == {"value", "low", "high"}
    assert cell["forward_passes_per_call"] == cell["tokens_per_call"] > 0
    constrained = found["splits"]["test_wild"]["sft"]["constrained"]
    assert 0 < constrained["forward_passes_per_call"] < constrained["tokens_per_call"]
    assert set(cell["failures"]) <= set(scoring.FAILURES)
    assert sum(cell["failures"].values()) == round(cell["n"] * (1 - cell["exact_call"]["value"]))
    assert cell["sampled"]["always_right"]["value"] <= cell["sampled"]["pass_at_k"]["value"]
    steps = [(row["from"], row["to"]) for row in found["differences"]["test"]]
    assert ("base, free", "sft, free") in steps
    assert ("sft, free", "sft, constrained") in steps


def test_a_second_evaluation_generates_nothing_and_a_broken_model_does_not_stop_the_others(sequence, tmp_path):
    shutil.copytree(sequence[0], tmp_path, dirs_exist_ok=True)
    before = metrics(tmp_path, "08_evaluate")
    (tmp_path / "06_dpo" / "model" / "model.safetensors").write_bytes(b"broken")
    done = run_here("08_evaluate", tmp_path, status=1)
    after = metrics(tmp_path, "08_evaluate")
    assert "dpo is left out" in done.stderr
    assert "06_dpo should be run again: altered: model/model.safetensors" in done.stderr
    assert "03_finetune should" not in done.stderr
    assert list(after["splits"]["test"]) == ["base", "sft", "ppo"]
    assert after["splits"]["test"]["sft"] == before["splits"]["test"]["sft"]  # the seconds too: nothing ran again
    compared = run_here("08_evaluate", tmp_path, "--compare", str(sequence[0]), str(tmp_path)).stdout
    assert compared.count("test_wild: base, constrained") == 3


def test_the_baseline_prints_input_output_and_verdict(sequence):
    stdout = sequence[1]["01_baseline"].stdout
    assert re.search(r"INPUT:  .+\nOUTPUT: .+\nVALID:  (No \(.+\)|Yes)", stdout)


def test_training_stages_tell_what_training_cost_and_brought(sequence):
    for stage in ("03_finetune", "06_dpo", "07_ppo"):
        found = metrics(sequence[0], stage)
        assert set(scoring.METRICS) < set(found["validation_before"])
        assert set(scoring.METRICS) < set(found["validation_after"])
        assert min(found["train_seconds"], found["tokens_per_second"], found["peak_memory_mb"]) > 0
        assert (sequence[0] / stage / "log.jsonl").stat().st_size
        assert list((sequence[0] / stage).glob("*.png"))


def test_the_fine_tuned_model_stops_by_itself(sequence):
    from playground.model import generation, loading

    settings = recipe.load(None, [("output_dir", str(sequence[0])), ("generate.max_new_tokens", 160)])
    tokenizer, model, _ = loading.load_checkpoint(settings, "03_finetune")
    files = [sequence[0] / "02_create_dataset" / f"{split}.jsonl" for split in ("train", "test")]
    prompts = [record["prompt"] for file in files for record in read_records(file)]
    completions = generation.generate(model, tokenizer, prompts, settings)
    # Of a model that is never taught the end, no answer does; of so small a run's, few go round in circles.
    assert sum(completion.ended for completion in completions) >= 0.9 * len(completions)


def test_one_request_is_answered_in_turns(sequence):
    done = run_here("04_inference", sequence[0], "--prompt", "What's the weather in Oslo?")
    assert "USER:   What's the weather in Oslo?" in done.stdout
    assert "CALL:" in done.stdout or "ANSWER:" in done.stdout


def test_jumping_ahead_writes_the_same_calls_with_fewer_passes(sequence):
    found = metrics(sequence[0], "05_constrained")
    assert found["same_text_with_and_without_jumps"] >= 0.5  # of four requests, by a model that has hardly learned
    for cells in (found["base"], found["sft"]):
        assert cells["constrained"]["schema_validity"] == cells["grounded"]["schema_validity"] == 1.0
    passes = [found["sft"][name]["forward_passes_per_call"] for name in ("grounded", "grounded, no jumps")]
    assert passes[0] < passes[1]


def test_one_request_can_be_watched_under_the_grammar(sequence, tmp_path):
    shutil.copytree(sequence[0], tmp_path, dirs_exist_ok=True)
    asked = ("--prompt", "<b>What</b>'s the weather in Oslo?")
    assert json.loads(run_here("05_constrained", tmp_path, *asked).stdout)["tool"]
    done = run_here("05_constrained", tmp_path, *asked, "--trace")
    assert "allowed" in done.stdout and json.loads(done.stdout.splitlines()[-2])["tool"]
    page = (tmp_path / "05_trace" / "trace.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;What&lt;/b&gt;" in page and "<b>What" not in page


def test_any_schema_can_be_asked_for(sequence, tmp_path):
    schema = {
        "type": "object",
        "properties": {"born": {"type": "integer", "minimum": 1000, "maximum": 2100}},
        "required": ["born"],
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    ask = ("05_constrained", sequence[0], "--prompt", "Ada Lovelace", "--schema", str(path))
    assert 1000 <= json.loads(run_here(*ask).stdout)["born"] <= 2100
    ambiguous = {"$defs": {"0": {"type": "null"}}, "$ref": "#/$defs/9"}
    for depth in range(1, 10):  # lists in lists, each of which may be any of eight
        inner = {"type": "array", "items": {"$ref": f"#/$defs/{depth - 1}"}, "minItems": 1}
        ambiguous["$defs"][str(depth)] = {"anyOf": [inner | {"maxItems": most} for most in range(1, 9)]}
    refusals = {
        '{"type": "string", "pattern": "(?=a)b"}': "#: the pattern '(?=a)b' (assert in a pattern) is not supported",
        '{"type": "strnig"}': "#/type: not a valid JSON Schema",
        '{"$ref": "#"}': "#: a schema that nothing satisfies",
        '{"type": ': "schema.json",
        json.dumps(ambiguous): "the schema is too ambiguous",
    }
    for text, message in refusals.items():
        path.write_text(text)
        done = run_here(*ask, status=2)
        assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_trace_opens_in_a_browser(sequence):
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs chromium")
    path = sequence[0] / "05_constrained" / "trace.html"
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
               f"--user-data-dir={sequence[0].parent / 'profile'}", path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    steps = len((path.parent / "trace.jsonl").read_text(encoding="utf-8").splitlines())
    assert 2 < done.stdout.count("<tr>") <= steps + 1
    assert '<span class="jumped">' in done.stdout
    assert "CONSOLE" not in done.stderr


def test_every_stage_writes_what_the_docs_say(sequence):
    table = re.findall(r"^\| (0\d_\w+) \| ([^;|]*)", PAGES["docs/settings.md"], re.MULTILINE)
    listed = {stage: {name.rstrip("/") for name in re.findall(r"`([^`]+)`", cell)} for stage, cell in table[-8:]}
    assert list(listed) == STAGES
    for stage, names in listed.items():
        found = {path.name for path in (sequence[0] / stage).iterdir()} - {"manifest.json", "metrics.json"}
        assert names == {name for name in found if stage != "08_evaluate" or not name.endswith(".png")}, stage


def test_the_example_of_a_new_stage_runs(sequence, tmp_path):
    for stage in ("03_finetune", "06_dpo", "07_ppo"):
        shutil.copytree(sequence[0] / stage, tmp_path / stage)
    script = tmp_path / "09_average.py"
    script.write_text(TO_WRITE["09_average.py"], encoding="utf-8")
    command = [sys.executable, str(script), "--model", "embedded", "--output-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert "Next: python 08_evaluate.py --model" in done.stdout
    sft, dpo, ppo, average = (
        load_file(tmp_path / stage / "model" / "model.safetensors")
        for stage in ("03_finetune", "06_dpo", "07_ppo", "09_average")
    )
    name = next(iter(average))
    assert torch.allclose(average[name], (sft[name] + dpo[name] + ppo[name]) / 3, atol=1e-6)


def test_make_does_nothing_twice_and_reruns_only_what_a_change_touches(sequence, tmp_path):
    def dry_run(*arguments, output_dir=sequence[0]):
        make = ["make", "-n", "-o", ".venv/installed", f"OUT={output_dir}", f"RUN={sys.executable}",
                "CONFIG=configs/smoke.json", *arguments]  # fmt: skip
        return subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def would_run(*changed, output_dir=sequence[0]):
        new = [flag for name in changed for flag in ("-W", name)]
        printed = dry_run(*new, "all", output_dir=output_dir)
        return re.findall(r"^\S*python\S* (0\d\w+)\.py", printed, re.MULTILINE)

    assert would_run() == []
    assert would_run("06_dpo.py") == ["06_dpo", "08_evaluate"]
    assert would_run("05_constrained.py") == ["05_constrained"]
    assert would_run("03_finetune.py") == [
        "03_finetune",
        "04_inference",
        "05_constrained",
        "06_dpo",
        "07_ppo",
        "08_evaluate",
    ]
    assert would_run("configs/smoke.json") == []  # what a recipe says counts, and `verify` reads it, not its date
    table = "playground summary"  # make run shows it where 08_evaluate.py has not just done so
    assert table in dry_run("run") and table not in dry_run("-W", "08_evaluate.py", "run")
    shown = subprocess.run([sys.executable, "-m", *table.split(), str(sequence[0])], cwd=ROOT, capture_output=True)
    assert b"sft, constrained" in shown.stdout
    edited = shutil.copytree(sequence[0], tmp_path / "outputs")

    def edit(path, text):  # but not its date
        dates = path.stat()
        path.write_text(text)
        os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))

    edit(edited / "06_dpo" / "log.jsonl", "")
    assert would_run(output_dir=edited) == ["06_dpo", "08_evaluate"]
    made = json.loads((edited / "04_inference" / "manifest.json").read_text())
    made["recipe"]["generate"]["max_new_tokens"] += 1
    edit(edited / "04_inference" / "manifest.json", json.dumps(made))
    assert would_run(output_dir=edited) == ["04_inference", "06_dpo", "08_evaluate"]


def test_while_a_run_has_the_folder_another_may_read_but_not_write(sequence, tmp_path):
    shutil.copytree(sequence[0], tmp_path, dirs_exist_ok=True)
    artifacts.lock({"output_dir": str(tmp_path)})
    try:
        asked = ("--prompt", "What's the weather in Oslo?")
        assert json.loads(run("05_constrained", tmp_path, *asked).stdout)["tool"]
        for stage in STAGES:
            done = run(stage, tmp_path, status=2)
            assert f"is in use by process {os.getpid()}" in done.stderr and len(done.stderr.splitlines()) == 1
    finally:
        locking.release()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_fine_tuning_goes_on_and_ends_as_an_unbroken_one(sequence, tmp_path, how):
    run_here("02_create_dataset", tmp_path)
    with subprocess.Popen(
        command("03_finetune", tmp_path),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job would ignore it
    ) as process:
        partial, deadline = tmp_path / "03_finetune.partial", time.time() + 120
        while not artifacts.last_checkpoint(partial) and time.time() < deadline:
            time.sleep(0.02)
        process.send_signal(how)
        _, stderr = process.communicate()
    if how == signal.SIGINT:
        assert process.returncode == 130
        said = f"stopped: what was reached is kept in {partial}; to go on from there: python 03_finetune.py --config"
        assert stderr.splitlines()[-1].startswith(said)
        assert "Traceback" not in stderr
    assert artifacts.last_checkpoint(partial)
    assert not (tmp_path / "03_finetune").exists()
    if how == signal.SIGINT:
        return  # the folder is as after a kill
    run_here("03_finetune", tmp_path)
    assert model_hashes(tmp_path) == model_hashes(sequence[0])
    assert (tmp_path / "03_finetune" / "log.jsonl").read_bytes() == (
        sequence[0] / "03_finetune" / "log.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("file_size", [20_000_000, 30_000_000])  # too little for the model, for the optimizer's state
def test_a_checkpoint_that_the_disk_has_no_room_for_is_one_sentence(sequence, tmp_path, file_size):
    shutil.copytree(sequence[0] / "02_create_dataset", tmp_path / "02_create_dataset")
    done = subprocess.run(
        command("03_finetune", tmp_path, "--epochs", "1"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size)),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path} cannot be written (")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "03_finetune").exists()


@pytest.mark.parametrize(
    ("stage", "left"), [("06_dpo", "checkpoint-4/trainer_state.json"), ("07_ppo", "checkpoint-last.pt")]
)
def test_a_killed_dpo_or_ppo_goes_on_and_ends_as_an_unbroken_one(sequence, tmp_path, stage, left):
    for made in ("02_create_dataset", "03_finetune", *["06_dpo"] * (stage == "07_ppo")):
        shutil.copytree(sequence[0] / made, tmp_path / made)
    with subprocess.Popen(command(stage, tmp_path), cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        partial, deadline = tmp_path / f"{stage}.partial", time.time() + 120
        while not (partial / left).exists() and time.time() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert (partial / left).exists() and not (tmp_path / stage).exists()
    run_here(stage, tmp_path)
    assert model_hashes(tmp_path, stage) == model_hashes(sequence[0], stage)
    logs = [read_jsonl(folder / stage / "log.jsonl") for folder in (tmp_path, sequence[0])]
    assert logs[0] == logs[1]


def test_the_pairs_name_their_kind_and_source_and_trl_prints_no_dicts(sequence):
    pairs = read_jsonl(sequence[0] / "06_dpo" / "pairs.jsonl")
    assert len(pairs) >= 4
    assert {pair["source"] for pair in pairs} <= {"label", "samples"}
    assert len({pair["id"] for pair in pairs}) == len(pairs)
    done = sequence[1]["06_dpo"]
    assert "{" not in done.stdout + done.stderr


def test_dpo_asks_trainings_records_where_there_are_no_others_and_keeps_a_model_part_of_the_way(
    sequence, tmp_path, monkeypatch
):
    for made in ("02_create_dataset", "03_finetune"):
        shutil.copytree(sequence[0] / made, tmp_path / made)
    for name in ("feedback.jsonl", "rl.jsonl"):
        (tmp_path / "02_create_dataset" / name).unlink()
    between, shares = weights.interpolated, []
    monkeypatch.setattr(weights, "interpolated", lambda *arguments: shares.append(arguments[2]) or between(*arguments))
    run_here("06_dpo", tmp_path, "--set", "dpo.merge=0.3")
    assert {pair["id"][:6] for pair in read_jsonl(tmp_path / "06_dpo" / "pairs.jsonl")} == {"train-"}
    assert shares == [0.3, 0.3]  # after each of two passes


def test_ppo_logs_what_a_practitioner_watches_and_shows_its_answers(sequence):
    log = read_jsonl(sequence[0] / "07_ppo" / "log.jsonl")
    watched = "kl approx_kl clipfrac policy_loss value_loss explained_variance response_length"
    assert {"reward/mean", "reward/format", *watched.split()} <= set().union(*log)
    assert "update 1, sampled:" in sequence[1]["07_ppo"].stdout


@pytest.mark.parametrize("stage", ["06_dpo", "07_ppo"])
def test_a_model_of_other_tools_is_refused(sequence, tmp_path, stage):
    for made in ("02_create_dataset", "03_finetune"):
        shutil.copytree(sequence[0] / made, tmp_path / made)
    tools = tmp_path / "02_create_dataset" / "tools.json"
    tools.write_text(tools.read_text().replace("send_email", "send_mail"))
    done = run_here(stage, tmp_path, status=2)
    assert "03_finetune was trained for other tools" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_where_no_epoch_is_better_the_start_is_kept(sequence, tmp_path):
    for made in ("02_create_dataset", "03_finetune"):
        shutil.copytree(sequence[0] / made, tmp_path / made)
    start = shutil.move(tmp_path / "03_finetune" / "model", tmp_path / "start")
    shutil.rmtree(tmp_path / "03_finetune")
    done = run_here("03_finetune", tmp_path, "--epochs", "0.2", "--learning-rate", "0.5", model=start)
    assert "Epoch 0 is kept." in done.stdout
    kept, were = (load_file(folder / "model.safetensors") for folder in (tmp_path / "03_finetune" / "model", start))
    assert all(torch.equal(kept[name], were[name]) for name in were)


@pytest.mark.parametrize("stage", ["dpo", "02_create_dataset"])
def test_a_stage_that_has_made_no_model_is_one_sentence(sequence, stage):
    done = run_here("04_inference", sequence[0], "--prompt", "Hello!", "--from", stage, status=2)
    assert done.stderr.endswith(f"{stage} holds no model: take one of 03_finetune, 06_dpo, 07_ppo.\n")


def test_lora_targets_that_no_layer_has_are_one_sentence(sequence, tmp_path):
    shutil.copytree(sequence[0] / "02_create_dataset", tmp_path / "02_create_dataset")
    done = run_here("03_finetune", tmp_path, "--lora", "--set", "model.lora_targets=nothing", status=2)
    assert done.stderr.startswith("error: model.lora_targets: no layer is named 'nothing'")
    assert len(done.stderr.splitlines()) == 1


def test_a_model_named_like_a_stage_has_a_row_of_its_own(sequence, tmp_path):
    model = shutil.copytree(sequence[0] / "03_finetune" / "model", tmp_path / "dpo")
    settings = recipe.load(None, [("output_dir", str(sequence[0]))])
    found, _ = importlib.import_module("08_evaluate").find_models(settings, str(model))
    assert list(found) == ["base", "sft", "dpo", "ppo", f"--model {model}"]
    assert found["dpo"][0] == str(sequence[0] / "06_dpo" / "model")


@pytest.mark.parametrize("stage", STAGES[2:])
def test_a_stage_without_its_input_names_the_script_that_makes_it(stage, tmp_path):
    done = run_here(stage, tmp_path, status=2)
    assert re.search(r"run `python 0\d_\w+\.py .*` first", done.stderr)
    assert len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("02_create_dataset", ["--tools", "/nowhere.json"], "/nowhere.json cannot be read"),
        ("02_create_dataset", ["--size", "0"], "dataset.size"),
        ("01_baseline", ["--model", "README.md/x/y/z"], "neither a folder nor a name"),
        ("01_baseline", ["--model", "configs"], "no tokenizer that can be loaded"),
        ("04_inference", ["--file", "/nowhere.txt"], "/nowhere.txt cannot be read"),
        ("04_inference", ["--prompt", ""], "1 to 4000 characters"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(stage, arguments, message, tmp_path):
    done = run_here(stage, tmp_path, *arguments, status=2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_a_bad_dataset_line_is_named_and_the_last_model_is_kept(sequence, tmp_path):
    for made in ("02_create_dataset", "03_finetune"):
        shutil.copytree(sequence[0] / made, tmp_path / made)
    with (tmp_path / "02_create_dataset" / "train.jsonl").open("a") as file:
        file.write("{\n")
    done = run_here("03_finetune", tmp_path, status=2)
    assert "train.jsonl:65: not JSON" in done.stderr
    assert model_hashes(tmp_path) == model_hashes(sequence[0]) and (tmp_path / "03_finetune" / "model").is_dir()


def test_fine_tuning_with_lora_writes_an_adapter_that_later_stages_use(sequence, tmp_path, monkeypatch):
    run_here("02_create_dataset", tmp_path, "--size", "16")
    run_here("03_finetune", tmp_path, "--lora", "--epochs", "9")
    validated = [row["validation"]["epoch"] for row in read_jsonl(tmp_path / "03_finetune" / "log.jsonl")[-6:]]
    assert validated == [0, 2, 4, 6, 8, 9]  # of many epochs, about six
    names = {path.name for path in (tmp_path / "03_finetune" / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    run_here("06_dpo", tmp_path, "--set", "dpo.epochs=1")
    first = read_jsonl(tmp_path / "06_dpo" / "log.jsonl")[0]
    assert abs(first["rewards/margins"]) < 0.1  # the reference, its adapter off, is the fine-tuned model, not the base
    filled = recipe.for_model
    monkeypatch.setattr(recipe, "for_model", lambda settings, *of: filled(settings, *of) | {"updates": 1})
    run_here("07_ppo", tmp_path, "--set", "ppo.decoding=constrained", "--set", "ppo.updates=null")
    assert artifacts.read_manifest(tmp_path, "07_ppo")["recipe"]["ppo"]["updates"] is None  # or it would be stale
    updates = [row for row in read_jsonl(tmp_path / "07_ppo" / "log.jsonl") if "update" in row]
    assert {row["reward/format"] for row in updates} == {1.0}  # under the grammar every sample is a call that ends
    assert artifacts.read_manifest(tmp_path, "07_ppo")["recipe"]["model"]["use_lora"]
    assert (tmp_path / "07_ppo" / "model" / "model.safetensors").exists()  # whole: the adapters are merged


def test_muon_refuses_matrices_that_processes_share_out(tmp_path, monkeypatch):
    run_here("02_create_dataset", tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    failed = run_here("03_finetune", tmp_path, status=2)
    assert failed.stderr.endswith("FSDP shares them out: add --set sft.optimizer=adamw.\n")
    assert not (tmp_path / "03_finetune.partial").exists()


@pytest.mark.slow
def test_the_sequence_runs_on_distilgpt2s_shape(tmp_path, gpt2_tokenizer):
    """82 M parameters with random weights: it works, it is just not clever."""
    assert SHARED.exists()
    model = save_random_model(tmp_path / "distil", gpt2_tokenizer, "gpt2", n_layer=6)
    done = run_all(tmp_path / "outputs", model)
    assert "100.0%" in done["08_evaluate"].stdout


@pytest.mark.slow
def test_the_recipe_unseen_tools_runs_from_end_to_end(tmp_path):
    smoke = json.loads((ROOT / "configs" / "smoke.json").read_text(encoding="utf-8"))
    lists = json.loads((ROOT / "configs" / "unseen_tools.json").read_text(encoding="utf-8"))
    small = {section: lists.get(section, {}) | values for section, values in smoke.items()}
    (tmp_path / "recipe.json").write_text(json.dumps(small))
    for stage in STAGES:
        run(stage, tmp_path, "--config", str(tmp_path / "recipe.json"))
    prompts = [row["prompt"] for row in read_jsonl(tmp_path / "02_create_dataset" / "test.jsonl")]
    assert all("\nTools: " in prompt for prompt in prompts)
    cell = metrics(tmp_path, "08_evaluate")["splits"]["test"]["sft"]["constrained"]
    assert cell["schema_validity"]["value"] == 1
