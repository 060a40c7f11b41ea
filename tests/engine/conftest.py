"""Ways to run a sweep."""

import pytest
from rays import two_cpus

from raysp.engine.options import RunOptions


@pytest.fixture(scope="module")
def on_ray():
    """How to run on a Ray that all tests of a module share."""
    with two_cpus() as options:
        yield options


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.slow)])
def either_way(request):
    """Each way to run: in this process, and on Ray."""
    return request.getfixturevalue("on_ray") if request.param == "ray" else RunOptions(inline=True, gpus_per_stage=0)
