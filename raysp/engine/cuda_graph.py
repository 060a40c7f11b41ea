"""Whether training steps are recorded as CUDA graphs and replayed (`raysp.training.replay`).

Owns the option and what it can't be joined with. It is part of where a stage runs, and of no key: results don't depend on it.
"""

from typing import Literal

from raysp.engine.compiling import Compile

CudaGraph = Literal["auto", "on", "off"]

AUTO_USES_GRAPH = False
"""What `auto` means where there is a GPU."""


def check_cuda_graph(cuda_graph: CudaGraph, compile: Compile, gpus: float, workers: int) -> None:  # noqa: A002 (the flag's word)
    """Refuse what can't be recorded on any machine.

    Args:
        cuda_graph: what is asked for.
        compile: how networks are compiled.
        gpus: that a stage has.
        workers: that a stage has.

    Raises:
        ValueError: it is asked for without a GPU, for several workers, or beside torch's own graphs.
    """
    if cuda_graph != "on":
        return
    if workers > 1:
        raise ValueError(
            f"cuda_graph is on, and {workers} workers_per_stage; expected one of them: workers wait for one another in mid-step"
        )
    if compile == "cuda-graphs":
        raise ValueError("cuda_graph is on, and compile is cuda-graphs; expected one of them: the first records the whole step")
    if not gpus:
        raise ValueError("cuda_graph is on, but stages have no GPU; expected auto or off, or --gpus-per-stage above 0")


def uses_graph(cuda_graph: CudaGraph, compile: Compile, gpus: float, workers: int) -> bool:  # noqa: A002
    """Whether steps are recorded; see `check_cuda_graph`, whose errors it raises."""
    check_cuda_graph(cuda_graph, compile, gpus, workers)
    wanted = cuda_graph == "on" or (cuda_graph == "auto" and AUTO_USES_GRAPH)
    return wanted and bool(gpus) and workers == 1 and compile != "cuda-graphs"
