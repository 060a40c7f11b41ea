"""The simple way to run: one stage after the other in this process, without Ray, with real tracebacks.

Owns nothing but the loop. Contract: the same results as on Ray, bit for bit, on the same machine with the same number of threads.
"""

from functools import partial

from raysp.engine import termination
from raysp.engine.context import Place
from raysp.engine.copies import next_to_train, settle
from raysp.engine.job import StageError, run_job
from raysp.engine.progress import Progress
from raysp.planning.plan import JobQueue, Outcome


def run_inline(queue: JobQueue, place: Place, progress: Progress) -> Outcome:
    """Run stages one by one.

    Args:
        queue: the stages to run.
        place: where results and data are.
        progress: told of every start, epoch and end.

    Returns:
        What became of every stage; failures don't raise.

    Raises:
        NoLongerOwner: another run has taken the results root over.
        OSError: a stage that trains the same as another can't be copied from it.
        Unreachable: the results root is remote, and couldn't be reached for a while.
        Terminated: SIGTERM came.
    """
    while stage := next_to_train(queue, place, progress):
        termination.check()
        progress.started(stage)
        until = queue.until(stage)
        try:
            record = run_job(stage, place, partial(progress.epoch, stage), until=until)
        except StageError as error:
            termination.check()
            progress.failed(stage, str(error), queue.failed(stage, str(error)))
        else:
            if record is not None:
                queue.done(stage, record)
                progress.finished(stage, record["rows"])
            elif until is not None:
                queue.paused(stage, until, place.store.read_rungs(stage)[until]["rows"])
                progress.paused(stage, until)
        settle(queue, place, progress)
    return queue.outcome
