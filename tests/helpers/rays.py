"""Ray for several tests: a start takes seconds, a connection does not."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from toy import with_helpers

from raysp.engine.options import RunOptions


@contextmanager
def two_cpus() -> Iterator[RunOptions]:
    """How to run on a Ray of this machine that lasts for the block. Its workers have the environment of the block's start."""
    from ray.cluster_utils import Cluster  # takes seconds to import

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", with_helpers())
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        yield RunOptions(address=made.address, gpus_per_stage=0, max_concurrent=2)
    finally:
        made.shutdown()
