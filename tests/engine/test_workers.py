"""Several workers train what one trains: processes with gloo, without Ray and with it."""

import json
import logging
import subprocess
import sys
import warnings

import parallel
import pytest
import torch
from torch import nn
from toy import HELPERS, toy, with_helpers

from raysp.engine.context import Context, Place
from raysp.engine.job import StageError, run_job
from raysp.engine.workers import ALONE, WorkerLost, Workers, is_lost_worker, synchronised_batchnorm
from raysp.store.records import NoLongerOwner, Store
from raysp.store.tensor_files import load_tensors
from raysp.training.batches import Batches


def owned(directory, size, name="results"):
    """A results root that the processes of one group can write to."""
    root = directory / f"{name}-{size}"
    root.mkdir()
    (root / ".lock").write_text(f"a test, run workers-{size}")
    return Store(root=root, run_id=f"workers-{size}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All cases trained by one, two and three workers; where the results are."""
    directory = tmp_path_factory.mktemp("workers")
    stores = {size: owned(directory, size) for size in (1, 2, 3)}
    for size in (2, 3):
        owned(directory, size, "again")
    program = [sys.executable, str(HELPERS / "parallel.py"), str(directory)]
    processes = [subprocess.Popen([*program, str(rank), "2", "3"], stderr=subprocess.PIPE, text=True) for rank in (0, 1, 2)]
    try:
        for case in parallel.CASES:
            run_job(parallel.stage(case), parallel.place_for(stores[1]), lambda figures: None)
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0 and "Warning:" not in text.replace("Warning: find_unused", ""), text
    return directory, stores


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", [case for case in parallel.CASES if case != "batchnorm"])
def test_several_workers_train_what_one_trains(trained, case, size):
    _, stores = trained
    stage = parallel.stage(case)
    one, several = stores[1].read(stage), stores[size].read(stage)
    assert several["host"]["workers"] == size and one["host"]["workers"] == 1
    assert several["metrics"] == one["metrics"]
    for a, b in zip(one["history"], several["history"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["val_by_exit"] == a["val_by_exit"]
        assert {name: b.get(name) for name in ("mask_changed", "snl_count", "gamma", "rewired", "relus")} == {
            name: a.get(name) for name in ("mask_changed", "snl_count", "gamma", "rewired", "relus")
        }
    if case != "frozen":
        assert one["history"][0]["loss"] > one["history"][-1]["loss"]
    first, other = (load_tensors(stores[s].directory(stage) / "weights.safetensors") for s in (1, size))
    assert first.keys() == other.keys()
    for name, tensor in first.items():
        if tensor.dtype == torch.bool:
            assert torch.equal(tensor, other[name]), name
        else:
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("size", [2, 3])
def test_several_workers_count_by_class_what_one_counts(trained, size):
    directory, _ = trained
    alone = parallel.counted(ALONE)
    assert (sum(alone["val"]["images"]), sum(alone["test"]["images"])) == (33, 3)
    for rank in range(size):
        assert json.loads((directory / f"rank-{size}-{rank}.json").read_text())["tally"] == alone


@pytest.mark.parametrize("size", [2, 3])
def test_all_workers_hold_the_same_bits_and_hear_of_every_epoch(trained, size):
    directory, _ = trained
    ranks = [json.loads((directory / f"rank-{size}-{rank}.json").read_text()) for rank in range(size)]
    for case in parallel.CASES:
        assert len({rank[case]["state"] for rank in ranks}) == 1, case
        assert all(rank[case]["epochs"] == [1, 2, 3, 4] for rank in ranks)
        figures = [[{k: v for k, v in h.items() if k != "time_s"} for h in rank[case]["history"]] for rank in ranks]
        assert all(others == figures[0] for others in figures)
    assert [rank["rank"] for rank in ranks] == [0] * size, "what the first reads all have"
    assert [len(rank["written"]) for rank in ranks] == [6 * len(parallel.CASES)] + [0] * (size - 1)


@pytest.mark.parametrize("size", [2, 3])
def test_several_workers_go_on_from_a_checkpoint_bit_for_bit(trained, size):
    directory, _ = trained
    for rank in range(size):
        found = json.loads((directory / f"rank-{size}-{rank}.json").read_text())
        assert [found[f"{case} resumed"] for case in ("baseline", "gated")] == [
            found[case]["state"] for case in ("baseline", "gated")
        ]


@pytest.mark.parametrize("case", ["senet", "walk"])
@pytest.mark.parametrize("size", [2, 3])
def test_several_workers_go_on_from_the_middle_of_one_workers_epoch(trained, size, case, tmp_path):
    directory, _ = trained
    one = run_job(parallel.stage(case), parallel.place_for(owned(tmp_path, 1)), lambda figures: None)["history"]
    found = json.loads((directory / f"rank-{size}-0.json").read_text())[f"{case}, other number"]
    assert [h["loss"] for h in found["history"]] == pytest.approx([h["loss"] for h in one], rel=1e-4)
    assert [h.get("mask_changed") for h in found["history"]] == [h.get("mask_changed") for h in one]
    assert found["scores"] == pytest.approx(parallel.scores(), rel=1e-3)


def test_masks_move_and_gates_pass_through_every_state_in_these_cases(trained):
    _, stores = trained
    history = {case: stores[1].read(parallel.stage(case))["history"] for case in parallel.CASES}
    assert all(h["mask_changed"] > 0 for case in ("senet", "counterfactual") for h in history[case][:3])
    assert [h["gamma"] for h in history["gated"]] == [0.0, 0.5, 1.0, 1.0]
    assert history["snl"][-1]["snl_count" if "snl_count" in history["snl"][-1] else "mask_changed"] == 0.0
    assert history["sparse"][0]["rewired"] > 0
    above = parallel.network(2).num_relus() - 100
    for case in ("walk", "frozen"):  # a third and two thirds of half a cosine
        assert [h["relus"] for h in history[case]] == [100 + round(0.75 * above), 100 + round(0.25 * above), 100, 100]


def test_running_statistics_are_the_workers_mean(trained):
    """With two workers and even parts: what batch norm keeps is near what it keeps alone, and the networks still learn."""
    _, stores = trained
    stage = parallel.stage("batchnorm")
    one, two = (load_tensors(stores[size].directory(stage) / "weights.safetensors") for size in (1, 2))
    torch.testing.assert_close(two["last.stem_bn.running_mean"], one["last.stem_bn.running_mean"], rtol=0.2, atol=0.1)


def test_who_loses_a_worker_says_so_and_blames_no_stage(trained):
    directory, stores = trained
    kinds = {rank: json.loads((directory / f"lost-{rank}.json").read_text()) for rank in range(3)}
    assert kinds[1][0] == "StageError"
    assert [kinds[0][0], kinds[2][0]] == ["WorkerLost"] * 2, kinds
    errors = list(stores[3].root.glob("stages/lost-*/error.txt"))
    assert len(errors) == 1 and "SystemExit: gone" in errors[0].read_text()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("num", [2, 3, 4, 7, 10, 11, 128])
def test_parts_make_up_the_batch(num, size):
    parts = [Workers(rank, size).shard(num) for rank in range(size)]
    assert sum(share for _, share in parts) == pytest.approx(1.0)
    counted = [image for part, share in parts if share for image in range(num)[part]]
    assert counted == list(range(num))
    for part, share in parts:
        assert len(range(num)[part]) >= 2
        assert share == 0.0 or share == len(range(num)[part]) / num
    assert ALONE.shard(num) == (slice(0, num), 1.0)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_that_does_not_exist_is_refused(rank):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        Workers(rank, 2)


def test_the_workers_parts_are_the_batches_that_one_worker_sees():
    batches = Batches(parallel.DATA, parallel.splits(), torch.device("cpu"))
    for whole, *parts in zip(
        batches.train(16, 5, 1), *(batches.train(16, 5, 1, Workers(rank, 3)) for rank in range(3)), strict=True
    ):
        counted = [part for part in parts if part[2]]
        assert torch.equal(torch.cat([images for images, _, _ in counted]), whole[0])
        assert torch.equal(torch.cat([labels for _, labels, _ in counted]), whole[1])
        assert all(len(labels) >= 2 for _, labels, _ in parts)
    late = list(batches.train(16, 5, 1, first=2))
    for got, want in zip(late, list(batches.train(16, 5, 1))[2:], strict=True):
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_only_the_first_worker_writes(place):
    stage = parallel.stage("baseline")
    place.store.save_checkpoint(stage, {}, {"from": "the first"})
    second = Context(stage=stage, place=place, parents={}, report=print, workers=Workers(1, 2))
    second.save_checkpoint({}, {"from": "the second"})
    second.save_weights({"x": torch.zeros(1)})
    assert place.store.load_checkpoint(stage)[1] == {"from": "the first"}
    assert not (place.store.directory(stage) / "weights.safetensors").exists()


@pytest.mark.parametrize("on", [True, False])
def test_batch_norms_are_synchronised_on_gpus_with_several_workers_alone(on, tmp_path):
    for gpus in (1.0, 0.0):
        for workers in (ALONE, Workers(0, 2)):
            place = Place(store=Store(root=tmp_path), gpus=gpus, sync_batchnorm=on)
            context = Context(stage=parallel.stage("baseline"), place=place, parents={}, report=print, workers=workers)
            assert context.sync_batchnorm == (on and gpus > 0 and workers.size == 2)


def test_synchronised_batch_norms_share_tensors_and_go_again():
    model = parallel.network(0, gates=(1,), folded=False)
    before = dict(model.named_modules())
    tensors = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    norms = {name for name, module in before.items() if isinstance(module, nn.BatchNorm2d)}
    assert len(norms) >= 8
    model.train()

    def look():
        inside = dict(model.named_modules())
        assert {name for name, module in inside.items() if isinstance(module, nn.SyncBatchNorm)} == norms
        assert not any(isinstance(module, nn.BatchNorm2d) for module in inside.values())
        assert list(inside) == list(before)
        assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == tensors
        assert all(module.training for module in inside.values())
        assert (model.stem_bn.eps, model.stem_bn.momentum) == (before["stem_bn"].eps, before["stem_bn"].momentum)
        model.eval()

    with synchronised_batchnorm(model):
        look()
    assert dict(model.named_modules()) == before
    assert not any(module.training for module in model.modules())
    with pytest.raises(ZeroDivisionError), synchronised_batchnorm(model):
        raise ZeroDivisionError
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.distributed.DistBackendError("NCCL error"), True),
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:4"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (WorkerLost("a report came to nothing"), True),
        (ValueError("gloo"), False),
        (SystemExit(1), False),
    ],
)
def test_which_errors_mean_a_lost_worker(error, lost):
    assert is_lost_worker(error) == lost


@pytest.mark.filterwarnings("ignore")  # Ray's own imports warn
def test_a_report_that_ray_has_given_up_means_a_lost_worker(monkeypatch):
    import ray.train

    from raysp.engine.ray.train import _tell

    def given_up(figures):
        raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(ray.train, "report", given_up)
    with pytest.raises(WorkerLost, match="came to nothing"):
        _tell({"epoch": 1})


@pytest.mark.filterwarnings("ignore")  # Ray's own imports warn
@pytest.mark.parametrize(
    ("failures", "meaning"),
    [
        ({0: WorkerLost("b"), 1: StageError("a")}, StageError("a")),
        ({1: StageError("b"), 0: StageError("a")}, StageError("a")),
        ({0: NoLongerOwner("a"), 1: WorkerLost("b")}, NoLongerOwner("a")),
        ({1: WorkerLost("b"), 0: RuntimeError("a")}, WorkerLost("worker 0: a; worker 1: b")),
        ({1: RuntimeError()}, WorkerLost("worker 1: RuntimeError")),
    ],
)
def test_the_stages_own_error_counts_before_what_the_others_made_of_it(failures, meaning):
    from ray.train import WorkerGroupError

    from raysp.engine.ray.train import _meaning

    found = _meaning(WorkerGroupError("all of it", failures))
    assert (type(found), str(found)) == (type(meaning), str(meaning))
    assert "controller" in str(_meaning(RuntimeError("the controller died")))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A local Ray with two CPUs, and a results root that its workers can write to."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own imports warn
        patch.setenv("PYTHONPATH", with_helpers())
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray = pytest.importorskip("ray")
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        try:
            with Store(root=tmp_path_factory.mktemp("cluster")).lock() as store:
                yield store, ray.put(parallel.place_for(store))
        finally:
            ray.shutdown()


def on_ray(cluster, stage, scratch):
    from raysp.engine.ray.train import run_on_workers

    heard = []
    store, place = cluster
    run_on_workers(stage, place, heard.append, num_workers=2, num_threads=1, scratch=str(scratch))
    return store.read(stage), heard


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_train_gives_what_one_worker_gives_and_reports_every_epoch(cluster, place, tmp_path):
    stage = parallel.stage("senet")
    record, heard = on_ray(cluster, stage, tmp_path)
    run_job(stage, parallel.place_for(place.store), print)
    alone = place.store.read(stage)
    assert record["host"]["workers"] == 2
    assert record["metrics"] == alone["metrics"]
    assert [h["loss"] for h in record["history"]] == pytest.approx([h["loss"] for h in alone["history"]], rel=1e-4)
    assert [figures["epoch"] for figures in heard] == [1, 2, 3, 4]
    assert heard[-1]["loss"] == record["history"][-1]["loss"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_stage_that_raises_on_ray_train_is_reported_once_with_its_message(cluster, tmp_path):
    stage = toy(behaviour="raise")
    with pytest.raises(StageError) as caught:
        on_ray(cluster, stage, tmp_path)
    assert f"{stage.label} failed after epoch 1 of 3: RuntimeError: this stage was told to fail [/red] ü; see" in str(
        caught.value
    )
    assert str(caught.value).count("told to fail") == 1
    assert "Traceback" in (cluster[0].directory(stage) / "error.txt").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_on_ray_train_is_a_machine_fault_and_the_stage_goes_on_from_its_checkpoint(cluster, place, tmp_path):
    stage = toy(behaviour="die once", epochs=4)
    with pytest.raises(WorkerLost):
        on_ray(cluster, stage, tmp_path)
    assert not (cluster[0].directory(stage) / "error.txt").exists()
    record, heard = on_ray(cluster, stage, tmp_path)
    (place.store.root / "died").touch()
    assert record["rows"] == run_job(stage, place, print)["rows"]
    # One worker may have seen the other's death only after the epoch in which it died.
    assert [figures["epoch"] for figures in heard] in ([2, 3, 4], [3, 4])
