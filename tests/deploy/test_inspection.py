"""`raysp inspect`."""

import own
import pytest

from raysp.deploy.inspection import main


def inspect(*arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    with own.working_in(tmp_path, "looked", monkeypatch) as directory:
        yield directory


def test_it_shows_relus_gates_exits_and_costs(here, capsys):
    assert inspect("looked:build", "--image-size", "8", "--in-channels", "1", "--num-classes", "10") == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert ["1", "relu_1", "4x8x8", "256", "25.0%", "3x3", "and", "3x3"] in rows  # conv1 and conv2
    assert ["1", "relu_2", "4x8x8", "256", "25.0%"] in rows  # behind the sum
    assert ["1", "relu_2", "4x8x8", "20,736", "2", "--ac-after", "1"] in rows
    assert sum(row[:1] == ["2"] and row[-1:] == ["final"] for row in rows) == 1
    assert "1,024 ReLUs" in printed
    assert "slice" in printed and "Private inference can't run it" in printed


def test_names_are_whole_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert inspect("torchvision:densenet121") == 0
    printed = capsys.readouterr().out
    assert "features.denseblock1.denselayer1.relu1" in printed
    assert "features.pool0 (MaxPool2d) takes 32,768 comparisons" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["looked:silu", "--in-channels", "1"], "SiLU isn't known, at 1"),
        (["resnet19"], "expected one of resnet18"),
        (["resnet18", "--image-size", "9"], "multiple of 8"),
        (["resnet18", "--image-size", "0"], "--image-size 0; expected at least 1"),
        (["resnet18", "--relu6", "relu"], "which has none"),
        (["looked:build", "--width", "3"], "--width with looked:build"),
    ],
)
def test_what_it_cannot_show_it_refuses_with_one_message(arguments, message, here, capsys):
    assert inspect(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
