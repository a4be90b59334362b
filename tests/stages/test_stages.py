"""Whole stages in their own processes, minutes of them: the shipped recipes, trackers, little memory, short models."""

import json
import re
import subprocess
import sys

import pytest

from playground.run import artifacts, recipe
from playground.run.files import read_json, read_records
from tests.conftest import ROOT, SHARED, save_random_model
from tests.run.event_files import scalars
from tests.run.test_recipe import leaves
from tests.scripts import STAGES, metrics, run

pytestmark = pytest.mark.slow
TRAINING = ("03_finetune", "06_dpo", "07_ppo")


def smoke(*without):
    """The settings of configs/smoke.json as flags, to put on top of another recipe."""
    sizes = read_json(recipe.CONFIGS / "smoke.json")
    flags = []
    for key in leaves(sizes):
        section, name = key.split(".")
        if key not in without:
            flags += ["--set", f"{key}={json.dumps(sizes[section][name])}"]
    return flags


def run_recipe(name, output_dir, *arguments, stages=STAGES, without=()):
    for stage in stages:
        run(stage, output_dir, "--config", f"configs/{name}.json", *smoke(*without), *arguments)
    if "08_evaluate" in stages:
        grid = metrics(output_dir, "08_evaluate")["splits"]["test"]
        assert {cells["constrained"]["schema_validity"]["value"] for cells in grid.values()} == {1.0}
        assert list(grid) == ["base", "sft", "dpo", "ppo"]


def test_the_recipe_lora_trains_adapters_in_every_stage(tmp_path):
    run_recipe("lora", tmp_path)
    assert (tmp_path / "03_finetune" / "model" / "adapter_model.safetensors").exists()
    for stage in TRAINING[1:]:  # their own adapters, merged into the model that they save
        assert artifacts.read_manifest(tmp_path, stage)["recipe"]["model"]["use_lora"]
        assert (tmp_path / stage / "model" / "model.safetensors").exists()


def test_the_recipe_calculator_knows_two_tools(tmp_path):
    run_recipe("calculator", tmp_path)
    called = {
        json.loads(record["completion"])["tool"]
        for record in read_records(tmp_path / "02_create_dataset" / "train.jsonl")
    }
    assert called == {"calculator", "respond"}


def test_the_recipe_toolbench_reads_the_users_folder(tmp_path):
    if not SHARED.exists():
        pytest.skip("needs ../shared/toolbench")
    run_recipe("toolbench", tmp_path, "--path", str(SHARED / "toolbench"), stages=STAGES[1:2])
    small = ["--set", f"dataset.path={SHARED / 'toolbench'}", "--set", "evaluate.requests=3"]
    run_recipe("toolbench", tmp_path, *small, without=("generate.max_new_tokens",))
    assert {row["source"] for row in read_records(tmp_path / "02_create_dataset" / "test.jsonl")} == {"toolbench"}


def test_the_recipe_toolbench_stops_where_there_is_no_toolbench(tmp_path):
    done = run("02_create_dataset", tmp_path, "--config", "configs/toolbench.json", status=2)
    assert "ToolBench/data holds no ToolBench data" in done.stderr


def test_the_recipe_teacher_adds_to_what_a_first_model_was_trained_on(tmp_path):
    done = run("02_create_dataset", tmp_path, "--config", "configs/teacher.json", status=2)
    assert re.search(r"run `python 03_finetune\.py.*` first", done.stderr)
    for stage in STAGES[1:3]:
        run(stage, tmp_path)
    lenient = ["teacher.unlabelled=20", "teacher.samples=2", "teacher.agree=1", "teacher.tau=-100"]
    run_recipe("teacher", tmp_path, *(word for key in lenient for word in ("--set", key)))
    train = read_records(tmp_path / "02_create_dataset" / "train.jsonl")
    assert [row["source"] for row in train[:64]] == ["templates"] * 64
    assert {row["source"] for row in train[64:]} == {"teacher"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """An output folder with stages 02 and 03."""
    output_dir = tmp_path_factory.mktemp("tuned")
    for stage in STAGES[1:3]:
        run(stage, output_dir)
    return output_dir


def test_the_training_stages_send_their_curves_to_tensorboard(tuned):
    pytest.importorskip("tensorboard")
    names = {
        "03_finetune": {"loss", "validation/exact_call"},
        "06_dpo": {"loss", "rewards/margins", "validation/exact_call"},
        "07_ppo": {"reward/mean", "approx_kl", "validation/exact_call"},
    }
    for stage, expected in names.items():
        run(stage, tuned, "--set", "report_to=tensorboard")
        found = scalars(tuned / stage / "tensorboard")
        assert expected <= set(found)
        for name in expected:
            assert all(step >= 0 for step, _ in found[name])
        assert (tuned / stage / "log.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("stage", "advice"),
    [
        ("03_finetune", "out of memory with sft.micro_batch_size=8: try --set sft.micro_batch_size=4."),
        ("06_dpo", "out of memory with dpo.batch_size=2: try --set dpo.batch_size=1."),
        ("07_ppo", "out of memory with ppo.minibatch_size=2: try --set ppo.minibatch_size=1."),
    ],
)
def test_a_training_stage_that_runs_out_of_memory_names_the_batch_size_to_try(tuned, stage, advice):
    arguments = [f"{stage}.py", "--config", "configs/smoke.json", "--model", "embedded", "--output-dir", str(tuned)]
    code = (
        "import sys, runpy, torch\n"
        f"sys.argv = {arguments!r}\n"
        "torch.Tensor.backward = lambda *_, **__: torch.empty(2**50)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"error: {advice}" in done.stderr
    assert "Traceback" not in done.stderr


def test_requests_longer_than_the_models_positions_are_counted_in_every_stage(tmp_path, tokenizer):
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 80}
    model = save_random_model(tmp_path / "short", tokenizer, "gpt2", **sizes)
    done = {stage: run(stage, tmp_path / "outputs", model=model) for stage in STAGES}
    assert "records are longer than 80 tokens and left out" in done["03_finetune"].stdout
    for stage in ("06_dpo", "07_ppo"):
        assert "requests do not fit the model's 80 tokens and are left out" in done[stage].stdout
    for stage in ("01_baseline", "08_evaluate"):
        assert "prompts are longer than 32 tokens and cut to their ends" in done[stage].stderr
