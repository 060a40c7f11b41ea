"""The paper's curves beside ours."""

from records import commit, row

from analysis.published import published_beside
from analysis.report import read_report


def test_published_curves_stand_beside_the_papers_network_alone(tmp_path):
    usual = {"dataset": "cifar100", "model": "resnet18", "image_size": 32}
    commit(tmp_path, [row(**usual, width=64, selection="test")])
    commit(tmp_path, [row(**usual, width=16, selection="val")])
    found = published_beside(read_report([tmp_path]).points)
    assert list(found) == [("cifar100", "test")] and "SENet" in found["cifar100", "test"]
