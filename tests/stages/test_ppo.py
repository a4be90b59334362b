"""Stage 07 against references of its own: definitions, numbers worked by hand, and a task that PPO solves."""

import copy
import importlib
import json
import random
from types import SimpleNamespace

import pytest
import torch

import tools as toolbox
from playground.judge import learner
from playground.judge.checking import Checker
from playground.model import generation, loading, prompting, weights
from playground.model.generation import Completion
from playground.run import artifacts, hardware, recipe
from playground.run.errors import UserError
from tests.conftest import save_random_model

stage = importlib.import_module("07_ppo")
TOOLS = toolbox.load_tools()
WEATHER = {"id": "1", "prompt": "Weather in Oslo?", "completion": '{"tool": "get_weather", "args": {"city": "Oslo"}}'}
EMAIL = {"id": "2", "prompt": "write to a@b.co about the tea party, please",
         "completion": '{"tool": "send_email", "args": {"to": "a@b.co", "subject": "the tea party"}}'}  # fmt: skip


def settings(**ppo):
    return {**recipe.load(), "ppo": {**recipe.load()["ppo"], **ppo}}


def as_answer(text, tokenizer, ended=True):
    ids = tokenizer(f" {text}")["input_ids"] + [tokenizer.eos_token_id] * ended
    return Completion(text, ids, ended, len(ids))


def answers_of(texts, tokenizer):
    """What sample_answers would return; rewards from 0 to 1, so that there is something to learn."""
    records = [WEATHER, EMAIL, {"id": "3", "prompt": "hi"}]
    parts = [{"mean": 1.0}, {"mean": 0.0}, {"mean": 0.5}]
    return [
        (record, as_answer(text, tokenizer), part) for record, text, part in zip(records, texts, parts, strict=True)
    ]


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """As on a machine without bfloat16: numbers are compared with those of other computations."""
    monkeypatch.setattr(hardware, "has_bf16", lambda: False)


@pytest.fixture(params=["llama", "gpt2"])
def learned(request, tmp_path, tokenizer):
    """A small random learner with rotary or absolute positions; the reference differs from the policy."""
    sizes = {
        "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 128},
        "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    }
    save_random_model(tmp_path, tokenizer, request.param, **sizes[request.param])
    policy, reference = (loading.load_model(tmp_path, recipe.load()) for _ in range(2))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    return learner.prepare(policy, reference, learner.new_critic(policy, "shared"), tokenizer, 1e-3)


TEXTS = ['{"tool": "get_weather", "args": {"city": "Oslo"}}', "I do not know", '{"tool": 1}']


# ---- the pieces, by hand


def test_advantages_are_the_sum_of_discounted_errors_that_defines_them():
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(4, 7, generator=generator) for _ in range(2))
    lengths, gamma, gae_lambda = [7, 1, 4, 6], 0.9, 0.8
    mask = torch.tensor([[1.0] * n + [0.0] * (7 - n) for n in lengths])
    found = stage.estimate_advantages(rewards, values, mask, gamma, gae_lambda)
    for row, length in enumerate(lengths):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        for t in range(length):
            defined = sum((gamma * gae_lambda) ** (k - t) * (r[k] + gamma * v[k + 1] - v[k]) for k in range(t, length))
            assert found[row, t].item() == pytest.approx(defined, abs=1e-5)
        assert found[row, length:].tolist() == [0.0] * (7 - length)


def one_token_each(ratios, advantages, **rollout):
    zeros = torch.zeros(1, len(ratios))
    tokens = {"log_probs": zeros, "values": zeros, "returns": zeros, "completion_mask": torch.ones(1, len(ratios))}
    tokens |= {"advantages": torch.tensor([advantages])} | rollout
    return torch.tensor([ratios]).log(), zeros, zeros, tokens


def test_the_policy_loss_stops_paying_where_the_ratio_has_left_its_range():
    ppo = settings(clip_coef=0.2, value_coef=0.0)["ppo"]
    # paid up to 1.2; punished in full; the other way round, punished down to 0.8 and no further paid
    cases = {(1.5, 1.0): -1.2, (1.5, -1.0): 1.5, (0.5, -1.0): 0.8, (0.5, 1.0): -0.5, (1.1, 2.0): -2.2}
    for (ratio, advantage), expected in cases.items():
        loss, watched = stage.ppo_loss(*one_token_each([ratio], [advantage]), ppo)
        assert loss.item() == pytest.approx(expected, abs=1e-6)
        assert watched["clipfrac"] == float(abs(ratio - 1) > 0.2)
        assert watched["approx_kl"] == pytest.approx(ratio - 1 - torch.tensor(ratio).log().item(), abs=1e-6)


def test_the_value_loss_takes_the_worse_of_the_value_and_the_clipped_value():
    ppo = settings(value_clip_coef=0.2, value_coef=1.0)["ppo"]
    # old value, new value, return: half the larger squared error
    for old, new, target, expected in [(0.0, 1.0, 1.0, 0.32), (0.0, 0.1, 1.0, 0.405), (1.0, 0.0, 1.0, 0.5)]:
        rollout = {"values": torch.tensor([[old]]), "returns": torch.tensor([[target]])}
        log_probs, entropy, _, tokens = one_token_each([1.0], [0.0], **rollout)
        loss, _ = stage.ppo_loss(log_probs, entropy, torch.tensor([[new]]), tokens, ppo)
        assert loss.item() == pytest.approx(expected)


def test_the_entropy_bonus_lowers_the_loss():
    log_probs, _, values, tokens = one_token_each([1.0], [0.0])
    loss, _ = stage.ppo_loss(log_probs, torch.tensor([[3.0]]), values, tokens, settings(entropy_coef=0.1)["ppo"])
    assert loss.item() == pytest.approx(-0.3)


def test_the_kl_controller_moves_by_at_most_a_fifth_of_its_gain():
    ppo = settings(kl_setpoint=2.0, kl_gain=0.5)["ppo"]
    for kl, expected in [(2.0, 0.1), (2.2, 0.105), (8.0, 0.11), (0.0, 0.09), (-1.0, 0.09)]:
        assert stage.adapt_kl_coef(0.1, kl, ppo) == pytest.approx(expected)


def test_whitening_looks_at_the_masked_tokens_only():
    tensor, mask = torch.tensor([[1.0, 3.0, 99.0], [1.0, 99.0, 3.0]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    assert (learner.whiten(tensor, mask) * mask).flatten().tolist() == pytest.approx([-1, 1, 0, -1, 0, 1])


def test_the_explained_variance_is_1_for_the_returns_and_0_for_their_mean():
    returns, mask = torch.tensor([[1.0, 2.0, 6.0, 50.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert learner.explained_variance(returns, returns, mask) == 1
    assert learner.explained_variance(torch.full((1, 4), 3.0), returns, mask) == pytest.approx(0)


# ---- what a rollout holds


def alone(model, record, completion, tokenizer):
    """Log-probabilities of a completion's tokens, from the row alone and unpadded."""
    prompt = prompting.encode_prompt(record["prompt"], tokenizer)
    logits = model(torch.tensor([prompt + completion.token_ids])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, dim=-1)[range(len(completion.token_ids)), completion.token_ids]


def test_log_probs_of_a_padded_batch_are_those_of_each_row_alone(learned, tokenizer):
    answers, ppo = answers_of(TEXTS, tokenizer), settings(minibatch_size=2)["ppo"]
    rollout, watched = stage.lay_out(learned, answers, 0.1, ppo)
    divergences = []
    with torch.no_grad():
        for row, (record, completion, _) in enumerate(answers):
            log_probs = alone(learned.policy, record, completion, tokenizer)
            assert rollout["log_probs"][row, : len(log_probs)] == pytest.approx(log_probs.tolist(), abs=1e-4)
            divergences.append((log_probs - alone(learned.reference, record, completion, tokenizer)).sum().item())
    assert watched["kl"] == pytest.approx(sum(divergences) / 3, abs=1e-3)


@pytest.mark.parametrize("length", [1, 12, 13, 14])
def test_batches_have_few_widths(length):
    batch = learner.collate([[1, 2], [1, 2, 3]], [[4] * length, [5]], 0, "cpu")
    assert batch["input_ids"].shape == (2, 16 if length < 14 else 32)
    assert batch["completion_ids"].shape == (2, length)


def test_the_sampled_tokens_are_the_rollouts_and_their_end_is_one_of_them(learned, tokenizer):
    short = settings()
    short["generate"] |= {"max_new_tokens": 8}
    records = [WEATHER, EMAIL, WEATHER, EMAIL]
    answers = stage.sample_answers(learned, records, lambda done, _: {"mean": float(done.ended)}, short, 0)
    prompts = [record["prompt"] for record in records]
    again = generation.generate(learned.policy, tokenizer, prompts, short, temperature=1.0, seed=0)
    assert [completion for _, completion, _ in answers] == again
    rollout, _ = stage.lay_out(learned, answers_of(TEXTS, tokenizer), 0.1, settings()["ppo"])
    assert all(ids[-1] == tokenizer.eos_token_id for ids in rollout["completions"])


SURE = {"executes": 1.0, "grounded": 1.0, "explained": 1.0}
QUESTION = {"id": "3", "prompt": "Is it raining in Oslo?"}


def test_an_answer_is_paid_for_what_it_is_better_than_the_best_where_it_leaves_it(tokenizer):
    right, other, worse = (as_answer(text, tokenizer) for text in (TEXTS[0], TEXTS[0].replace("Oslo", "Rome"), "No."))
    paid = [(QUESTION, done, SURE | {"mean": mean}) for done, mean in ((right, 0.9), (other, 0.4), (right, 0.9))]
    found = learner.compare([*paid, (QUESTION, worse, {"mean": 0.1})], tokenizer, agree=2)
    assert [parts["mean"] for _, _, parts in found] == pytest.approx([0, -0.5, 0, -0.8])
    whole, left, again, prose = (done.token_ids for _, done, _ in found)
    assert whole == again == right.token_ids
    assert left == other.token_ids[: len(left)] and left[:-1] == right.token_ids[: len(left) - 1]
    assert left[-1] != right.token_ids[len(left) - 1]
    assert len(prose) == 2  # the space that is the same, and what begins the mistake


def test_an_answer_that_was_cut_off_before_it_could_be_wrong_is_left_out(tokenizer):
    right, cut = as_answer(TEXTS[0], tokenizer), as_answer(TEXTS[0][:20], tokenizer, ended=False)
    cut.token_ids = right.token_ids[:5]
    assert learner.compare([(WEATHER, cut, {"mean": 0.0})], tokenizer, agree=1) == []


def test_nothing_is_learned_where_no_answer_is_better_or_nobody_knows_the_best(tokenizer):
    right, wrong = as_answer(TEXTS[0], tokenizer), as_answer(TEXTS[1], tokenizer)
    good, bad, doubtful = SURE | {"mean": 1.0}, SURE | {"mean": 0.2}, SURE | {"mean": 1.0, "explained": 0.5}

    def kept(record, *answers, agree=1):
        return learner.compare([(record, *answer) for answer in answers], tokenizer, agree)

    assert len(kept(QUESTION, (right, good), (wrong, bad))) == 2
    assert not kept(QUESTION, (right, good), (wrong, bad), agree=2)
    assert not kept(QUESTION, (right, doubtful), (wrong, bad))
    assert not kept(QUESTION, (right, good), (right, good))
    assert not kept(WEATHER, (right, {"mean": 1.0}))
    ((_, _, parts),) = kept(WEATHER, (wrong, {"mean": 0.2}))  # the label is the best answer
    assert parts == {"mean": pytest.approx(-0.8)}


def test_the_entropys_gradient_is_left_out_where_it_does_not_count(learned, tokenizer):
    rollout, _ = stage.lay_out(learned, answers_of(TEXTS, tokenizer), 0.1, settings()["ppo"])
    ((_, batch),) = learned.minibatches(rollout, range(3), 3)
    one, other = (learner.evaluate_tokens(learned.policy, batch, learned.critic, count)[1] for count in (True, False))
    assert torch.equal(one, other) and one.requires_grad and not other.requires_grad
    logits = learned.policy(
        batch["input_ids"],
        attention_mask=batch["attention_mask"],
        **generation.positions(learned.policy, batch["attention_mask"], len(batch["input_ids"][0])),
    )
    logits = logits.logits[:, -batch["completion_ids"].shape[1] - 1 : -1]
    assert torch.allclose(one, torch.distributions.Categorical(logits=logits).entropy(), atol=1e-4)


def test_padding_and_prompt_tokens_are_in_no_loss(learned, tokenizer):
    ppo = settings(entropy_coef=0.1)["ppo"]
    rollout, _ = stage.lay_out(learned, answers_of(TEXTS, tokenizer), 0.1, ppo)
    ((_, batch),) = learned.minibatches(rollout, range(3), 3)
    assert batch["completion_mask"].sum() == sum(map(len, rollout["completions"]))
    loss, _ = stage.ppo_loss(*learner.evaluate_tokens(learned.policy, batch, learned.critic), batch, ppo)
    padding = batch["completion_mask"] == 0
    assert padding.any()
    changed = dict(batch, input_ids=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7))
    for name in ("log_probs", "values", "advantages", "returns"):
        changed[name] = batch[name].masked_fill(padding, 100.0)
    other, _ = stage.ppo_loss(*learner.evaluate_tokens(learned.policy, changed, learned.critic), changed, ppo)
    assert other.item() == pytest.approx(loss.item(), abs=1e-6)


def test_the_first_gradient_without_clipping_is_that_of_reinforce(learned, tokenizer):
    ppo = settings(clip_coef=float("inf"), value_coef=0.0, epochs=1, minibatch_size=3)["ppo"]
    answers = answers_of(TEXTS, tokenizer)
    rollout, _ = stage.lay_out(learned, answers, 0.1, ppo)
    ((_, batch),) = learned.minibatches(rollout, range(3), 3)
    stage.ppo_loss(*learner.evaluate_tokens(learned.policy, batch, learned.critic), batch, ppo)[0].backward()
    found = {name: p.grad.clone() for name, p in learned.policy.named_parameters()}
    learned.policy.zero_grad()
    tokens, objective = 0, 0.0
    for row, (record, completion, _) in enumerate(answers):
        log_probs = alone(learned.policy, record, completion, tokenizer)
        objective += (rollout["advantages"][row, : len(log_probs)] * log_probs).sum()
        tokens += len(log_probs)
    (-objective / tokens).backward()
    for name, parameter in learned.policy.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("trunk", ["shared", "own"])
def test_a_value_head_learns_returns_that_stay_the_same(learned, tokenizer, trunk):
    critic = learner.new_critic(learned.policy, trunk)
    learned = learner.prepare(learned.policy, learned.reference, critic, tokenizer, 1e-2)
    ppo = settings(gae_lambda=1.0, value_coef=1.0, value_clip_coef=1e9, max_grad_norm=10.0,
                   epochs=150, minibatch_size=3, target_kl=None)["ppo"]  # fmt: skip
    rollout, watched = stage.lay_out(learned, answers_of(TEXTS, tokenizer), 0.0, ppo)
    rollout["advantages"] = torch.zeros_like(rollout["advantages"])
    assert watched["explained_variance"] == pytest.approx(0, abs=1e-5)
    stage.improve(learned, rollout, ppo, random.Random(0))
    ((_, batch),) = learned.minibatches(rollout, range(3), 3)
    with torch.no_grad():
        log_probs, _, values = learner.evaluate_tokens(learned.policy, batch, learned.critic)
    assert learner.explained_variance(values, rollout["returns"], batch["completion_mask"]) > 0.95
    moved = not torch.allclose(log_probs, rollout["log_probs"], atol=1e-4)
    assert moved == (trunk == "shared")  # a trunk of its own leaves the policy where it was


def test_a_minibatch_that_is_read_in_parts_makes_the_same_step(learned, tokenizer, monkeypatch):
    rollout, _ = stage.lay_out(learned, answers_of(TEXTS, tokenizer), 0.1, settings()["ppo"])
    steps, passes, loss = [], [], stage.ppo_loss
    monkeypatch.setattr(stage, "ppo_loss", lambda *args: passes.append(1) or loss(*args))
    for usual, large_from in ((3, 2**15), (2, 2**15), (3, 100)):  # in one part, in two, and in three of one answer
        monkeypatch.setattr(stage, "MOST_AT_ONCE", (usual, 1))
        monkeypatch.setattr(hardware, "LARGE", large_from)
        passes.clear()
        one = learner.prepare(*map(copy.deepcopy, (learned.policy, learned.reference, learned.critic)), tokenizer, 0.0)
        watched = stage.improve(one, rollout, settings(epochs=1, minibatch_size=3)["ppo"], random.Random(0))
        steps.append((watched, [parameter.grad for parameter in one.parameters()], len(passes)))
    assert [parts for _, _, parts in steps] == [1, 2, 3]
    for watched, gradients, _ in steps[1:]:
        assert watched == pytest.approx(steps[0][0], rel=1e-4, abs=1e-6)
        assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(gradients, steps[0][1], strict=True))


def test_with_lora_the_reference_is_the_adapter_off_and_the_value_head_is_trained_whole(tmp_path, tokenizer):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    save_random_model(tmp_path, tokenizer, "llama", **sizes)
    start = loading.load_model(tmp_path, recipe.load())
    critic = learner.new_critic(start, "shared")
    policy = weights.add_lora(loading.load_model(tmp_path, recipe.load()), recipe.load())
    learned = learner.prepare(policy, None, critic, tokenizer, 3e-3)
    names = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert names and all("lora" in name for name in names)
    ppo = settings(epochs=3)["ppo"]
    answers = answers_of(TEXTS, tokenizer)
    rollout, watched = stage.lay_out(learned, answers, 0.1, ppo)
    assert watched["kl"] == pytest.approx(0, abs=1e-5)
    stage.improve(learned, rollout, ppo, random.Random(0))
    assert stage.lay_out(learned, answers, 0.1, ppo)[1]["kl"] != pytest.approx(0, abs=1e-3)
    assert critic["head"].weight.abs().min() > 0
    weights.save_whole(policy, tokenizer, tmp_path / "whole")
    whole = loading.load_model(tmp_path / "whole", recipe.load())
    with torch.no_grad():
        ids = torch.tensor([tokenizer("Weather in Oslo?")["input_ids"]])
        assert torch.allclose(whole(ids).logits, policy(ids).logits, atol=1e-4)


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
TOY = {"minibatch_size": 64, "epochs": 4, "learning_rate": 5e-4, "target_kl": 0.02,
       "entropy_coef": 0.01, "kl_coef": 0.0, "kl_gain": 0.0, "gae_lambda": 0.95, "validate_every": 10,
       "agree": 1}  # fmt: skip


def toy_learner(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    save_random_model(tmp_path, Digits(), "llama", **sizes)
    policy, reference = (loading.load_model(tmp_path, recipe.load()) for _ in range(2))
    return learner.prepare(policy, reference, learner.new_critic(policy, "shared"), Digits(), TOY["learning_rate"])


def copied(completion, record):
    """Share of two answered tokens that repeat the request's digit."""
    return completion.text.count(record["prompt"]) / 2


def copies(completion, record):
    return SURE | {"mean": copied(completion, record)}


def toy_settings(**ppo):
    changed = settings(**{**TOY, **ppo})
    return {**changed, "generate": {**changed["generate"], "max_new_tokens": 2}}


@pytest.mark.parametrize(("sign", "bounds"), [(1, (0.95, 1.0)), (-1, (0.0, 0.1))])
def test_ppo_learns_to_copy_a_digit_and_to_avoid_it_when_the_reward_is_turned_round(tmp_path, sign, bounds):
    learned, toy = toy_learner(tmp_path), toy_settings()
    for update in range(160):
        rng = random.Random(update)
        stage.update_policy(
            learned, RECORDS * 8, lambda done, record: SURE | {"mean": sign * copied(done, record)}, toy, 0.0, rng
        )
    prompts = [record["prompt"] for record in RECORDS * 8]
    sampled = generation.generate(learned.policy, learned.tokenizer, prompts, toy, temperature=1.0)
    share = sum(map(copied, sampled, RECORDS * 8)) / len(sampled)
    assert bounds[0] <= share <= bounds[1]


def train_toy(tmp_path, validations=None, reward=copies, **ppo):
    """`train` on the toy task; validations: the rewards that it is to say, one after the other."""
    told = iter(validations or range(1000))
    artifact = artifacts.Artifact(tmp_path / "partial", tmp_path / "final", {})
    artifact.path.mkdir(parents=True, exist_ok=True)
    learned = toy_learner(tmp_path / "start")
    progress = stage.train(
        learned, lambda _: RECORDS * 4, reward, lambda: {"reward": next(told)}, toy_settings(**ppo), artifact
    )
    return learned, progress


def test_the_learning_rate_rises_and_falls_to_nothing(tmp_path, monkeypatch):
    rates, update_policy = [], stage.update_policy

    def watched(learned, *rest):
        rates.append(learned.optimizer.param_groups[0]["lr"])
        return update_policy(learned, *rest)

    monkeypatch.setattr(stage, "update_policy", watched)
    train_toy(tmp_path, updates=10, warmup_ratio=0.3, learning_rate=1.0, kl_bound=1e9, patience=9)
    assert rates[:3] == sorted(rates[:3]) and rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[0] == 0.25 and rates[-1] == pytest.approx(0.1)


def test_training_stops_when_validation_stays_under_where_it_started(tmp_path):
    _, progress = train_toy(tmp_path, [5, 4, 6, 4, 4, 7], updates=9, validate_every=1, patience=2)
    assert [row["update"] for row in progress["validations"]] == [0, 1, 2, 3, 4]


def test_training_stops_when_the_policy_stays_far_from_its_start(tmp_path):
    _, progress = train_toy(tmp_path, updates=9, validate_every=1, patience=3, kl_bound=-10)  # any kl is over it
    assert progress["update"] == 3


def test_an_update_whose_rewards_are_all_the_same_is_counted_and_changes_nothing(tmp_path):
    learned, progress = train_toy(tmp_path, reward=lambda *_: SURE | {"mean": 1.0}, updates=2)
    assert [row["constant_reward"] for row in progress["log"]] == [True, True]
    start = loading.load_model(tmp_path / "start", recipe.load())
    assert all(map(torch.equal, learned.policy.state_dict().values(), start.state_dict().values()))


def test_a_loss_that_is_not_a_number_stops_before_it_reaches_the_weights(tmp_path):
    with pytest.raises(UserError, match=r"update 1: the loss is not a number"):
        train_toy(tmp_path, reward=lambda *_: SURE | {"mean": float("nan")}, updates=2)
    kept = loading.load_model(tmp_path / "partial" / "model", recipe.load())
    assert all(parameter.isfinite().all() for parameter in kept.parameters())


def test_an_update_ends_early_once_the_policy_has_moved_enough(tmp_path, monkeypatch):
    passes = []
    loss = stage.ppo_loss
    monkeypatch.setattr(stage, "ppo_loss", lambda *args: passes.append(1) or loss(*args))
    monkeypatch.setattr(stage, "MOST_AT_ONCE", (64, 64))  # one pass an epoch
    for target_kl, expected in ((None, 5), (1e-9, 2)):  # in the first epoch nothing has moved yet
        passes.clear()
        learned, toy = toy_learner(tmp_path), toy_settings(epochs=5, target_kl=target_kl)
        stage.update_policy(learned, RECORDS * 8, copies, toy, 0.0, random.Random(0))
        assert len(passes) == expected


def test_a_run_that_was_interrupted_ends_bitwise_like_one_that_was_not(tmp_path):
    whole, unbroken = train_toy(tmp_path / "a", updates=6, validate_every=4, checkpoint_every=3)

    class Killed(Exception):
        pass

    calls = iter(range(1000))

    def until_killed(done, record):
        if next(calls) >= len(RECORDS) * 4 * 4:  # in update 5: the last checkpoint is that of update 4
            raise Killed
        return copies(done, record)

    with pytest.raises(Killed):
        train_toy(tmp_path / "b", reward=until_killed, updates=6, validate_every=4, checkpoint_every=3)
    resumed, progress = train_toy(tmp_path / "b", [2, 3], updates=6, validate_every=4, checkpoint_every=3)
    for name in ("policy", "critic"):
        one, other = (getattr(learned, name).state_dict() for learned in (whole, resumed))
        assert all(torch.equal(one[key], other[key]) for key in one)
    rows = [
        [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in p["log"]] for p in (unbroken, progress)
    ]
    assert rows[0] == rows[1]
    assert progress["kl_coef"] == unbroken["kl_coef"]
    assert progress["validations"] == unbroken["validations"]


# ---- the reward cannot be had for nothing

OSLO = [({"tool": "get_weather", "args": {"city": "Oslo"}}, {"temperature_c": 3, "sky": "rainy"})]
ANSWER = '{"tool": "respond", "args": {"message": "It is 3 °C and rainy in Oslo."}}'
SUM = {"prompt": "what is 1*2 + 3?", "completion": '{"tool": "calculator", "args": {"expression": "1 * 2 + 3"}}'}
CHECKER = Checker([EMAIL, SUM, {"prompt": toolbox.with_results("Weather in Oslo?", OSLO), "completion": ANSWER}], TOOLS)


def reward(text, record, ended=True):
    done = SimpleNamespace(text=text, ended=ended)
    return stage.reward_of(done, record, TOOLS, CHECKER, recipe.load()["ppo"]["reward"])["mean"]


def call(tool, **args):
    return json.dumps({"tool": tool, "args": args})


@pytest.mark.parametrize("labelled", [True, False])
def test_a_right_call_earns_all_and_every_trick_less(labelled):
    record = EMAIL if labelled else {name: EMAIL[name] for name in ("id", "prompt")}
    right, request = EMAIL["completion"], EMAIL["prompt"]
    assert reward(right, record) == 1
    tricks = {
        "nothing": "",
        "prose": "I will do that.",
        "an object that is no call": "{}",
        "no arguments": call("send_email"),
        "the whole request as an argument": call("search_web", query=request),
        "the whole request as each argument": call("send_email", to="a@b.co", subject=request),
        "one argument within another": call("send_email", to="a@b.co", subject="a@b.co about the tea party"),
        "function words": call("search_web", query="to the"),
        "words of its own": call("send_email", to="a@b.co", subject="the coffee party"),
        "a second call": right + right,
        "text behind the call": right + " Done.",
    }
    earned = {name: reward(text, record) for name, text in tricks.items()}
    assert max(earned.values()) < 0.9, earned
    assert earned["an object that is no call"] < 0.5 > earned["text behind the call"]
    assert reward(right, record, ended=False) < 1  # it went on until the limit


def test_each_component_needs_the_ones_before_it():
    for record in (EMAIL, {"id": "2", "prompt": EMAIL["prompt"]}):
        done = SimpleNamespace(text=EMAIL["completion"] + " ...", ended=True)
        assert set(stage.reward_of(done, record, TOOLS, CHECKER, recipe.load()["ppo"]["reward"]).values()) == {0.0}


def test_after_a_result_only_an_answer_that_states_it_pays_in_full():
    made = {"tool": "get_weather", "args": {"city": "Oslo"}}
    prompt = toolbox.with_results("Weather in Oslo?", [(made, {"temperature_c": 18, "sky": "cloudy"})])
    record = {"id": "1", "prompt": prompt}
    assert reward(call("respond", message="It is 18 °C and cloudy in Oslo."), record) == 1
    for trick in ("Ok.", "It is 18 °C.", "It is 19 °C and cloudy in Oslo.", prompt):
        assert reward(call("respond", message=trick), record) < 0.9, trick
    assert reward(json.dumps(made), record) < 0.9  # what has been asked is not asked again


def test_arithmetic_has_to_use_the_numbers_of_the_request():
    record = {"id": "1", "prompt": "what is 17*23 + 4?"}
    assert reward(call("calculator", expression="17 * 23 + 4"), record) == 1
    assert reward(call("calculator", expression="17"), record) < 0.9
