"""Several trainings on one GPU: the part `packing` of `gpu.py`, with NVIDIA's MPS and without."""

import json
import subprocess
from contextlib import suppress

from gpu_rental import START_S, Rental, ended_by


def the_packing(rental: Rental) -> None:
    """Several narrow trainings on one GPU, with MPS and without."""
    packing(rental, "graph", "without MPS")
    if rental.settings["device"] == "cuda":
        from raysp.engine.packing import mps  # of this checkout, which need not be installed

        with mps.started() as found:
            rental.log(found.said)
            if found.is_on:
                packing(rental, "graph", "with MPS")
                packing(rental, "eager", "with MPS")


def packing(rental: Rental, variant: str, label: str) -> None:
    """Steps a second that so many processes make together."""
    width, limit_s = min(rental.settings["widths"]), START_S + rental.settings["seconds"] + 4.0
    for number in rental.settings["processes"]:
        if rental.left < limit_s:
            return
        rental.log(f"[{rental.at:5.0f} s] {number} processes {label}, {variant}")
        settings = {"variant": variant, "width": width, "kind": "teacher, 4 gates"}
        processes = [rental.start("packed", settings, stdin=subprocess.PIPE) for _ in range(number)]
        ended = [ended_by(process, limit_s) for process in processes]
        ready = [json.loads(process.stdout.readline() or "{}") for process in processes if process.stdout]
        for process in processes:
            with suppress(BrokenPipeError):  # it has died, or was too slow
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
        rates = [json.loads(process.stdout.readline() or "{}").get("rate", 0.0) for process in processes if process.stdout]
        for process, cancel in zip(processes, ended, strict=True):
            process.wait()
            cancel()
        memory = max((found.get("memory_mib", 0) for found in ready), default=0)
        rental.keep(packed=[width, label, variant, number], steps_per_s=sum(rates), lost=rates.count(0.0), memory_mib=memory)
