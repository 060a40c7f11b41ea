import pytest
from toy import diamond, with_helpers
from tracked import check_tensorboard, run


def test_tensorboard_has_a_run_per_stage(tmp_path, console):
    assert run(diamond(), tmp_path / "run", console, "tensorboard:tb").ok
    check_tensorboard(tmp_path / "tb", tmp_path / "run", diamond())
    assert "note" not in console.file.getvalue()


@pytest.mark.slow
def test_trackers_are_told_the_same_on_ray(tmp_path, console, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", with_helpers())
    ray = {"inline": False, "address": "local", "gpus_per_stage": 0, "max_concurrent": 2}
    assert run(diamond(), tmp_path / "run", console, "tensorboard:tb", **ray).ok
    check_tensorboard(tmp_path / "tb", tmp_path / "run", diamond())
