"""Stage 07 against references of its own: definitions, numbers worked by hand, and a task that PPO solves."""

import importlib
import json
import random

import pytest
import torch

import tools as toolbox
from playground.model import generation, likelihood, loading, prompting, weights
from playground.model.generation import Completion
from playground.model.learner import Learner
from playground.run import artifacts, hardware, recipe
from playground.run.errors import UserError
from tests.conftest import save_random_model

stage = importlib.import_module("07_ppo")
TOOLS = toolbox.load_tools()
WEATHER = {"id": "1", "prompt": "Weather in Oslo?", "completion": '{"tool": "get_weather", "args": {"city": "Oslo"}}'}
EMAIL = {
    "id": "2",
    "prompt": "write to a@b.co about the tea party, please",
    "completion": '{"tool": "send_email", "args": {"to": "a@b.co", "subject": "the tea party"}}',
}


def settings(**ppo):
    """The recipe's, but for the labelled records, which have a test of their own."""
    return {**recipe.load(), "ppo": {**recipe.load()["ppo"], "sft_coef": 0.0, **ppo}}


def as_answer(text, tokenizer, ended=True):
    ids = tokenizer(f" {text}")["input_ids"] + [tokenizer.eos_token_id] * ended
    return Completion(text, ids, ended, len(ids))


def answers_of(texts, tokenizer):
    """Sampled answers with rewards from 0 to 1, so that there is something to learn."""
    records = [WEATHER, EMAIL, {"id": "3", "prompt": "hi"}]
    rewards = [1.0, 0.0, 0.5]
    return [
        (record, as_answer(text, tokenizer), reward)
        for record, text, reward in zip(records, texts, rewards, strict=True)
    ]


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """As on a machine without bfloat16: numbers are compared with those of other computations. And in few passes."""
    monkeypatch.setattr(likelihood, "MOST_AT_ONCE", (64, 64))
    monkeypatch.setattr(hardware, "has_bf16", lambda: False)


@pytest.fixture(params=["llama", "gpt2"])
def learned(request, tmp_path, tokenizer):
    """A small random learner with rotary or absolute positions; the reference differs from the policy."""
    sizes = {
        "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 128},
        "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    }
    save_random_model(tmp_path, tokenizer, request.param, **sizes[request.param])
    learned = Learner(loading.load_model(tmp_path, recipe.load()), tokenizer, recipe.load(), [])
    with torch.no_grad():
        for parameter in learned.reference.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    return learned


TEXTS = ['{"tool": "get_weather", "args": {"city": "Oslo"}}', "I do not know", '{"tool": 1}']


# ---- the pieces, by hand


def test_advantages_are_the_sum_of_discounted_errors_that_defines_them():
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(4, 7, generator=generator) for _ in range(2))
    lengths, gamma, gae_lambda = [7, 1, 4, 6], 0.9, 0.8
    mask = torch.tensor([[1.0] * n + [0.0] * (7 - n) for n in lengths])
    found = stage.estimate_advantages(rewards * mask, values * mask, gamma, gae_lambda)
    for row, length in enumerate(lengths):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        for t in range(length):
            defined = sum((gamma * gae_lambda) ** (k - t) * (r[k] + gamma * v[k + 1] - v[k]) for k in range(t, length))
            assert found[row, t].item() == pytest.approx(defined, abs=1e-5)
        assert found[row, length:].tolist() == [0.0] * (7 - length)


def one_token_each(ratios, advantages, **rollout):
    zeros = torch.zeros(1, len(ratios))
    tokens = {"log_probs": zeros, "returns": zeros, "completion_mask": torch.ones(1, len(ratios))}
    tokens |= {"advantages": torch.tensor([advantages])} | rollout
    return torch.tensor([ratios]).log(), zeros, tokens


def test_the_policy_loss_stops_paying_where_the_ratio_has_left_its_range():
    ppo = settings(clip_coef=0.2, value_coef=0.0)["ppo"]
    # paid up to 1.2; punished in full; the other way round, punished down to 0.8 and no further paid
    cases = {(1.5, 1.0): -1.2, (1.5, -1.0): 1.5, (0.5, -1.0): 0.8, (0.5, 1.0): -0.5, (1.1, 2.0): -2.2}
    for (ratio, advantage), expected in cases.items():
        loss, watched = stage.ppo_loss(*one_token_each([ratio], [advantage]), ppo)
        assert loss.item() == pytest.approx(expected, abs=1e-6)
        assert watched["clipfrac"] == float(abs(ratio - 1) > 0.2)
        assert watched["approx_kl"] == pytest.approx(ratio - 1 - torch.tensor(ratio).log().item(), abs=1e-6)


def test_the_value_loss_is_half_the_squared_error():
    log_probs, _, tokens = one_token_each([1.0], [0.0], returns=torch.tensor([[1.0]]))
    loss, watched = stage.ppo_loss(log_probs, torch.tensor([[0.2]]), tokens, settings(value_coef=0.5)["ppo"])
    assert loss.item() == pytest.approx(0.16) and watched["value_loss"] == pytest.approx(0.32)


def test_whitening_looks_at_the_masked_tokens_only():
    tensor, mask = torch.tensor([[1.0, 3.0, 99.0], [1.0, 99.0, 3.0]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    assert (likelihood.whiten(tensor, mask) * mask).flatten().tolist() == pytest.approx([-1, 1, 0, -1, 0, 1])


# ---- what a rollout holds


def alone(model, record, completion, tokenizer):
    """Log-probabilities of a completion's tokens, from the row alone and unpadded."""
    prompt = prompting.encode_prompt(record["prompt"], tokenizer)
    logits = model(torch.tensor([prompt + completion.token_ids])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, dim=-1)[range(len(completion.token_ids)), completion.token_ids]


def test_log_probs_of_a_padded_batch_are_those_of_each_row_alone(learned, tokenizer):
    answers, ppo = answers_of(TEXTS, tokenizer), settings()["ppo"]
    rollout, watched = stage.build_rollout(learned, answers, ppo)
    divergences = []
    with torch.no_grad():
        for row, (record, completion, _) in enumerate(answers):
            log_probs = alone(learned.policy, record, completion, tokenizer)
            assert rollout["log_probs"][row, : len(log_probs)] == pytest.approx(log_probs.tolist(), abs=1e-4)
            divergences.append((log_probs - alone(learned.reference, record, completion, tokenizer)).sum().item())
    assert watched["kl"] == pytest.approx(sum(divergences) / 3, abs=1e-3)


@pytest.mark.parametrize("length", [1, 12, 13, 14])
def test_batches_have_few_widths(length):
    batch = likelihood.collate([[1, 2], [1, 2, 3]], [[4] * length, [5]], 0, "cpu")
    assert batch["input_ids"].shape == (2, 16 if length < 14 else 32)
    assert batch["completion_ids"].shape == (2, length)


def test_answers_are_compared_with_the_others_to_their_request_and_left_out_where_all_are_paid_alike(tokenizer):
    def answers(record, *paid):
        return [(record, as_answer(TEXTS[0], tokenizer), {"mean": mean}) for mean in paid]

    compared = stage.compare(
        answers(EMAIL, 1.0, 1.0) + answers(WEATHER, 1.0, 0.2, 0.6) + answers({"prompt": "hi"}, 0.0)
    )
    assert [record for record, _, _ in compared] == [WEATHER] * 3
    assert [reward for _, _, reward in compared] == pytest.approx([1.5**0.5, -(1.5**0.5), 0.0])


def test_the_reward_is_paid_with_the_last_token_and_every_token_pays_for_its_divergence(learned, tokenizer):
    answers, ppo = answers_of(TEXTS, tokenizer), settings(kl_coef=0.5, gae_lambda=1.0)["ppo"]
    rollout, _ = stage.build_rollout(learned, answers, ppo)
    with torch.no_grad():
        for row, (record, completion, reward) in enumerate(answers):
            both = [alone(model, record, completion, tokenizer) for model in (learned.policy, learned.reference)]
            paid = -0.5 * (both[0] - both[1])
            paid[-1] += reward
            # With lambda 1, a token's return is all that is paid from it on, whatever the value head says.
            to_come = paid.flip(0).cumsum(0).flip(0)
            assert rollout["returns"][row, : len(paid)] == pytest.approx(to_come.tolist(), abs=1e-4)


def test_padding_and_prompt_tokens_are_in_no_loss(learned, tokenizer):
    ppo = settings()["ppo"]
    rollout, _ = stage.build_rollout(learned, answers_of(TEXTS, tokenizer), ppo)
    ((_, batch),) = likelihood.batches(rollout, range(3), learned.policy, learned.tokenizer)
    assert batch["completion_mask"].sum() == sum(map(len, rollout["completions"]))
    loss, _ = stage.ppo_loss(*learned.evaluate(batch), batch, ppo)
    padding = batch["completion_mask"] == 0
    assert padding.any()
    changed = dict(batch, input_ids=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7))
    for name in ("log_probs", "advantages", "returns"):
        changed[name] = batch[name].masked_fill(padding, 100.0)
    other, _ = stage.ppo_loss(*learned.evaluate(changed), changed, ppo)
    assert other.item() == pytest.approx(loss.item(), abs=1e-6)


def test_the_first_gradient_without_clipping_is_that_of_reinforce(learned, tokenizer):
    ppo = settings(clip_coef=float("inf"), value_coef=0.0, epochs=1, minibatch_size=3)["ppo"]
    answers = answers_of(TEXTS, tokenizer)
    rollout, _ = stage.build_rollout(learned, answers, ppo)
    ((_, batch),) = likelihood.batches(rollout, range(3), learned.policy, learned.tokenizer)
    stage.ppo_loss(*learned.evaluate(batch), batch, ppo)[0].backward()
    found = {name: p.grad.clone() for name, p in learned.policy.named_parameters()}
    learned.policy.zero_grad()
    tokens, objective = 0, 0.0
    rows = {record["id"]: row for row, (record, _, _) in enumerate(answers)}
    for record, completion, _ in answers:
        row, log_probs = rows[record["id"]], alone(learned.policy, record, completion, tokenizer)
        objective += (rollout["advantages"][row, : len(log_probs)] * log_probs).sum()
        tokens += len(log_probs)
    (-objective / tokens).backward()
    for name, parameter in learned.policy.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-5, rtol=1e-3), name


def test_the_labelled_records_add_the_gradient_of_their_negative_log_likelihood(learned, tokenizer):
    records = [{"prompt": prompt, "completion": text} for prompt, text in zip(("hi", "Weather?"), TEXTS, strict=False)]
    learned = Learner(learned.policy, tokenizer, recipe.load(), records)
    learned.read_labelled(0.5, random.Random(0))
    found = {name: p.grad.clone() for name, p in learned.policy.named_parameters()}
    learned.policy.zero_grad()
    completions = [as_answer(row["completion"], tokenizer) for row in records]
    log_probs = [alone(learned.policy, *pair, tokenizer) for pair in zip(records, completions, strict=True)]
    (-0.5 * torch.cat(log_probs).mean()).backward()
    for name, parameter in learned.policy.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-5, rtol=1e-3), name


def test_what_is_kept_is_a_moving_average_of_the_weights(tmp_path):
    learned = toy_learner(tmp_path)
    for group in learned.optimizer.param_groups:
        group["lr"] = TOY["learning_rate"]
    expected = [parameter.clone() for parameter in learned.policy.parameters()]
    for update in range(3):
        answers = toy_sample(learned, 2)(random.Random(update))
        stage.update_policy(learned, answers, toy_settings(average=0.75), random.Random(update))
        expected = [0.75 * kept + 0.25 * new for kept, new in zip(expected, learned.policy.parameters(), strict=True)]
    assert not torch.equal(expected[0], next(learned.policy.parameters()))
    for kept, parameter in zip(expected, learned.average.parameters(), strict=True):
        assert torch.allclose(kept, parameter, atol=1e-6)


def test_the_value_head_learns_returns_that_stay_the_same(learned, tokenizer):
    ppo = settings(gae_lambda=1.0, kl_coef=0.0, value_coef=1.0, max_grad_norm=10.0, epochs=150, minibatch_size=3)["ppo"]
    answers = answers_of(TEXTS, tokenizer)
    rollout, watched = stage.build_rollout(learned, answers, ppo)
    assert watched["explained_variance"] == pytest.approx(0, abs=1e-5)
    rollout["advantages"] = torch.zeros_like(rollout["advantages"])
    for group in learned.optimizer.param_groups:
        group["lr"] = 1e-2
    stage.optimize(learned, rollout, ppo, random.Random(0))
    assert stage.build_rollout(learned, answers, ppo)[1]["explained_variance"] > 0.95


def test_a_minibatch_that_is_read_in_parts_makes_the_same_step(learned, tokenizer, monkeypatch):
    rollout, _ = stage.build_rollout(learned, answers_of(TEXTS, tokenizer), settings()["ppo"])
    steps, passes, loss = [], [], stage.ppo_loss
    monkeypatch.setattr(stage, "ppo_loss", lambda *args: passes.append(1) or loss(*args))
    for usual, large_from in ((3, 2**15), (2, 2**15), (3, 100)):  # in one part, in two, and in three of one answer
        monkeypatch.setattr(likelihood, "MOST_AT_ONCE", (usual, 1))
        monkeypatch.setattr(likelihood, "LARGE", large_from)
        passes.clear()
        watched = stage.optimize(learned, rollout, settings(epochs=1, minibatch_size=3)["ppo"], random.Random(0))
        steps.append((watched, [parameter.grad.clone() for parameter in learned.parameters], len(passes)))
    assert [parts for _, _, parts in steps] == [1, 2, 3]
    for watched, gradients, _ in steps[1:]:  # the learning rate is 0: all start from the same weights
        assert watched == pytest.approx(steps[0][0], rel=1e-4, abs=1e-6)
        assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(gradients, steps[0][1], strict=True))


def test_with_lora_the_reference_is_the_adapter_off_and_the_value_head_is_trained_whole(tmp_path, tokenizer):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    save_random_model(tmp_path, tokenizer, "llama", **sizes)
    with_lora = recipe.load(None, [("model.use_lora", True)])
    learned = Learner(loading.load_model(tmp_path, with_lora), tokenizer, with_lora, [])
    names = {name for name, parameter in learned.policy.named_parameters() if parameter.requires_grad}
    assert names and all("lora" in name for name in names)
    ppo, answers = settings(epochs=3)["ppo"], answers_of(TEXTS, tokenizer)
    rollout, watched = stage.build_rollout(learned, answers, ppo)
    assert watched["kl"] == pytest.approx(0, abs=1e-5)
    for group in learned.optimizer.param_groups:
        group["lr"] = 3e-3
    stage.optimize(learned, rollout, ppo, random.Random(0))
    assert stage.build_rollout(learned, answers, ppo)[1]["kl"] != pytest.approx(0, abs=1e-3)
    assert learned.value_head.weight.abs().min() > 0
    weights.save_whole(learned.policy, tokenizer, tmp_path / "whole")
    whole = loading.load_model(tmp_path / "whole", recipe.load())
    with torch.no_grad():
        ids = torch.tensor([tokenizer("Weather in Oslo?")["input_ids"]])
        assert torch.allclose(whole(ids).logits, learned.policy(ids).logits, atol=1e-4)


# ---- a task small enough to be solved


class Digits:
    """A tokenizer of ten tokens: eight digits, the end, and the mark after a prompt."""

    chat_template, eos_token_id, pad_token_id = None, 8, 8

    def __call__(self, text, **_):
        return {"input_ids": [int(c) for c in text if c.isdigit()] + [9]}

    def __len__(self):
        return 10

    def decode(self, ids, **_):
        return "".join(str(i) for i in ids if i < 8)

    def save_pretrained(self, folder):
        pass


RECORDS = [{"id": str(i), "prompt": str(i)} for i in range(8)]
TOY = {"minibatch_size": 64, "epochs": 4, "learning_rate": 5e-4, "kl_coef": 0.0, "gae_lambda": 0.95,
       "validate_every": 10, "warmup_updates": 1}  # fmt: skip


def toy_learner(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    save_random_model(tmp_path, Digits(), "llama", **sizes)
    return Learner(loading.load_model(tmp_path, recipe.load()), Digits(), recipe.load(), [])


def copied(completion, record):
    """Share of two answered tokens that repeat the request's digit."""
    return completion.text.count(record["prompt"]) / 2


def toy_settings(**ppo):
    changed = settings(**{**TOY, **ppo})
    return {**changed, "generate": {**changed["generate"], "max_new_tokens": 2}}


def toy_sample(learned, count, reward=copied):
    """The `sample` that `train` wants: answers to each digit, `count` times."""

    def sample(rng):
        records = RECORDS * count
        prompts, seed = [record["prompt"] for record in records], rng.getrandbits(32)
        done = generation.generate(
            learned.policy, learned.tokenizer, prompts, toy_settings(), temperature=1.0, seed=seed
        )
        paid = [{"mean": reward(*pair)} for pair in zip(done, records, strict=True)]
        return list(zip(records, done, paid, strict=True))

    return sample


@pytest.mark.parametrize(("sign", "bounds"), [(1, (0.95, 1.0)), (-1, (0.0, 0.1))])
def test_ppo_learns_to_copy_a_digit_and_to_avoid_it_when_the_reward_is_turned_round(tmp_path, sign, bounds):
    learned = toy_learner(tmp_path)
    sample = toy_sample(learned, 8, lambda *answer: sign * copied(*answer))
    for group in learned.optimizer.param_groups:
        group["lr"] = TOY["learning_rate"]
    for update in range(160):
        stage.update_policy(learned, sample(random.Random(update)), toy_settings(), random.Random(update))
    answers = sample(random.Random(-1))
    share = sum(copied(done, record) for record, done, _ in answers) / len(answers)
    assert bounds[0] <= share <= bounds[1]


def train_toy(tmp_path, validations=None, reward=copied, **ppo):
    """`train` on the toy task; validations: the rewards that it is to say, one after the other."""
    told = iter(validations or range(1000))
    artifact = artifacts.Artifact(tmp_path / "partial", tmp_path / "final", {})
    artifact.path.mkdir(parents=True, exist_ok=True)
    learned = toy_learner(tmp_path / "start")
    sample = toy_sample(learned, 4, reward)
    progress = stage.train(learned, sample, lambda: {"reward": next(told)}, toy_settings(**ppo), artifact)
    return learned, progress


def test_the_learning_rate_rises_and_stays(tmp_path, monkeypatch):
    rates, update_policy = [], stage.update_policy

    def watched(learned, *rest):
        rates.append(learned.optimizer.param_groups[0]["lr"])
        return update_policy(learned, *rest)

    monkeypatch.setattr(stage, "update_policy", watched)
    train_toy(tmp_path, updates=5, warmup_updates=4, learning_rate=1.0)
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_an_update_whose_rewards_are_all_the_same_changes_nothing(tmp_path):
    learned, progress = train_toy(tmp_path, reward=lambda *_: 1.0, updates=2)
    assert [row["compared"] for row in progress["log"]] == [0, 0]
    start = loading.load_model(tmp_path / "start", recipe.load())
    assert all(map(torch.equal, learned.policy.state_dict().values(), start.state_dict().values()))


def test_a_loss_that_is_not_a_number_stops_before_it_reaches_the_weights(tmp_path, monkeypatch):
    loss, learned = stage.ppo_loss, toy_learner(tmp_path)
    for group in learned.optimizer.param_groups:
        group["lr"] = TOY["learning_rate"]
    start = [parameter.clone() for parameter in learned.parameters]

    def poisoned(*arguments):
        value, watched = loss(*arguments)
        return value * float("nan"), watched

    monkeypatch.setattr(stage, "ppo_loss", poisoned)
    with pytest.raises(UserError, match="the loss is not a number"):
        stage.update_policy(learned, toy_sample(learned, 4)(random.Random(0)), toy_settings(), random.Random(0))
    assert all(map(torch.equal, start, learned.parameters))


def test_the_checkpoint_with_the_best_reward_on_validation_is_kept(tmp_path):
    learned, progress = train_toy(tmp_path, [1, 3, 2], updates=2, validate_every=1)
    assert [row["reward"] for row in progress["validations"]] == [1, 3, 2]
    kept, start = (loading.load_model(tmp_path / name, recipe.load()) for name in ("partial/model", "start"))
    states = [model.state_dict() for model in (kept, learned.average, start)]
    assert all(any(not torch.equal(states[0][key], state[key]) for key in state) for state in states[1:])


def test_a_run_that_was_interrupted_ends_bitwise_like_one_that_was_not(tmp_path):
    whole, unbroken = train_toy(tmp_path / "a", updates=6, validate_every=3)

    class Killed(Exception):
        pass

    calls = iter(range(1000))

    def until_killed(done, record):
        if next(calls) >= len(RECORDS) * 4 * 4:  # in update 5: the last checkpoint is that of update 3
            raise Killed
        return copied(done, record)

    with pytest.raises(Killed):
        train_toy(tmp_path / "b", reward=until_killed, updates=6, validate_every=3)
    resumed, progress = train_toy(tmp_path / "b", [2], updates=6, validate_every=3)
    assert all(map(torch.equal, whole.parameters, resumed.parameters))
    assert all(map(torch.equal, whole.averaged, resumed.averaged))
    assert progress["log"] == unbroken["log"]
    assert progress["validations"] == unbroken["validations"]


# ---- the reward


def reward(text, record, ended=True):
    return stage.reward_of(Completion(text, [], ended, 1), record, TOOLS, recipe.load()["ppo"]["reward"])["mean"]


def call(tool, **args):
    return json.dumps({"tool": tool, "args": args})


PAID = recipe.load()["ppo"]["reward"]


def test_what_is_paid_rises_with_the_rungs():
    assert 0 < PAID["format"] < PAID["tool"] < PAID["outcome"]
    right = EMAIL["completion"]
    assert reward(right, EMAIL) == PAID["outcome"]
    assert reward(call("send_email", to="a@b.co", subject="the coffee party"), EMAIL) == PAID["tool"]
    assert reward(call("get_weather", city="Oslo"), EMAIL) == PAID["format"]
    assert reward("{}", EMAIL) == PAID["format"]
    for nothing in ("", "I will do that.", right + right, right + " Done."):
        assert reward(nothing, EMAIL) == 0
    assert reward(right, EMAIL, ended=False) == 0  # it went on until the limit


def test_requests_need_an_outcome_or_a_call():
    outcome = {"tool": "calculator", "result": {"value": 391}}
    request = {"id": "rl-1", "prompt": "what is 17*23?", "outcome": outcome}
    labelled = {"id": "f-1", "prompt": "what is 17*23?", "completion": call("calculator", expression="17 * 23")}
    for record in (request, labelled):  # the result counts, not how it is written
        assert reward(call("calculator", expression="23*17"), record) == PAID["outcome"]
        assert reward(call("calculator", expression="17 + 23"), record) == PAID["tool"]
