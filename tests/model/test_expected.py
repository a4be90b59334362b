"""What `make run` says before it starts."""

from playground.model import expected


def test_a_step_and_answers_of_the_real_model_are_timed(monkeypatch):
    monkeypatch.setattr(expected, "ASKED", 1)
    monkeypatch.setattr(expected, "TOKENS", 2)
    step, answers = expected.step_and_answers("embedded")
    assert 0 < step < 60 and 0 < answers < 60


def test_the_expected_time_is_what_is_timed_times_what_is_counted(monkeypatch):
    monkeypatch.setattr(expected, "step_and_answers", lambda name: (2.0, 4.0))
    monkeypatch.setitem(expected.WORK, "embedded", (60, 15))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "embedded: about 3 minutes on this machine" in expected.sentence("embedded")
    assert "other: nobody has measured" in expected.sentence("other")
