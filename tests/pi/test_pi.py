"""Private inference for real: two processes on loopback, tiny networks, bytes and errors, never times."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import networks
import pytest
import torch
from torch.nn import functional as F
from waiting import wait_for

pytest.importorskip("spu", reason="private inference needs the extra pi: pip install -e '.[pi]'")

import raysp.pi.session
from raysp.latency.graph import graph_of
from raysp.latency.known import Calibrations
from raysp.latency.prediction import predict
from raysp.models import build_model, network_of
from raysp.models.collapse import collapse, fold_batchnorm
from raysp.models.costs import count_costs
from raysp.models.exits import FINAL
from raysp.models.files import save_model
from raysp.pi.calibration import calibrate
from raysp.pi.measurement import MeasureOptions
from raysp.pi.secretflow.engine import Spu
from raysp.pi.secretflow.program import compile_program, function_of
from raysp.pi.session import PartyFault, session
from raysp.pi.stored import measure_stored

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the engine's own imports
    pytest.mark.slow,
]
SHARES = (0.0, 0.1, 0.5, 1.0)
RELUS = ("less", "multiply")
"""What the engine makes of a ReLU: a comparison, and a selection."""


def tiny(share=1.0, gated=()):
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=10, image_size=8, in_channels=1, width=4)
    for layer in model.relu_layers():
        layer.relu.set_mask(torch.arange(layer.relu.size).view(layer.relu.shape) % 10 < 10 * share)
    for index in gated:
        model.gated_blocks()[index][1].add_shallow_branch(3)
    for norm in model.module_at("stages").modules():  # so that values stay near 1, however many ReLUs there are
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data.fill_(0.3)
    return model.eval()


def run(parties, model, runs=2, exit_name=FINAL):
    """What warm runs come to: the measured runs, the largest error, whether the class agrees, and the ReLUs."""
    plain = fold_batchnorm(collapse(model, exit_name))
    image = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    wanted = plain(image[None]).logits[exit_name][0].detach()
    parties.load(compile_program(graph_of(plain), image))
    measured, results = zip(*(parties.run() for _ in range(runs)), strict=True)
    errors = [float((torch.tensor(result) - wanted).abs().max()) for result in results]
    classes = {int(result.argmax()) for result in results}
    return list(measured), max(errors), classes == {int(wanted.argmax())}, count_costs(model, exit_name).relus


def sent(a_run, *operations):
    return sum(
        o.sent_bytes for party in a_run for o in party.statistics.operations if not operations or o.operation in operations
    )


@pytest.fixture(scope="module")
def cheetah():
    with session("cheetah", limit_s=300) as parties:
        run(parties, tiny(), runs=1)  # cold
        yield parties


@pytest.fixture(scope="module")
def semi2k():
    with session("semi2k", limit_s=300) as parties:
        yield parties


def test_semi2k_computes_the_network_and_its_bytes_follow_the_relus_kept(semi2k):
    found = {share: run(semi2k, tiny(share)) for share in SHARES}
    for runs, error, agrees, _ in found.values():
        assert error < 1e-3
        assert agrees
        assert len({sent(one) for one in runs}) == 1
    per_relu = [(sent(runs[0]) - sent(found[0.0][0][0])) / relus for runs, _, _, relus in found.values() if relus]
    assert per_relu == pytest.approx([144] * 3, rel=0.02)


def test_cheetah_computes_the_network_and_its_bytes_follow_the_relus_kept(cheetah):
    found = {share: run(cheetah, tiny(share)) for share in SHARES}
    for runs, error, agrees, _ in found.values():
        assert error < 1e-3
        assert agrees
        assert len({sent(one, *RELUS) for one in runs}) == 1
        # What convolutions send is compressed ciphertext, whose length depends on random numbers, by some hundred bytes.
        assert sent(runs[1]) == pytest.approx(sent(runs[0]), rel=1e-3)
    base = sent(found[0.0][0][0], *RELUS)
    for runs, _, _, relus in found.values():
        beyond = sent(runs[0], *RELUS) - base - 98.5 * relus
        assert -1 <= beyond <= 250 * len(tiny().relu_layers())  # the engine fills some counts up


@pytest.mark.parametrize("protocol", ["cheetah", "semi2k"])
@pytest.mark.parametrize("exit_name", ["ac1", "ac2"])
def test_a_network_cut_at_a_grid_head_is_computed(request, protocol, exit_name):
    model = tiny(0.1)
    model.add_exit(int(exit_name[2:]), "grid")  # after stage 1 its cells are 2x2, after stage 2 single positions
    _, error, agrees, _ = run(request.getfixturevalue(protocol), model.eval(), runs=1, exit_name=exit_name)
    assert error < 1e-3
    assert agrees


class Unlike(torch.nn.Module):
    """What built-in networks lack: a maximum, a concatenation, groups, a gap in a kernel, biases, one cell with a stride."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.grouped = torch.nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.dilated = torch.nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.expand, self.depthwise = torch.nn.Conv2d(12, 16, 1, bias=False), torch.nn.Conv2d(16, 16, 3, 2, 1, groups=16)
        self.head = torch.nn.Linear(16, 10, bias=False)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        x = torch.cat([F.relu(self.grouped(x)), F.relu(self.dilated(x))], dim=1)
        x = F.relu(self.depthwise(F.relu(self.expand(x))))
        return self.head(F.avg_pool2d(x, 2, 1).flatten(1))


@pytest.mark.parametrize("protocol", ["cheetah", "semi2k"])
def test_networks_of_other_kinds_are_computed(request, protocol):
    torch.manual_seed(0)
    model = network_of(Unlike(), name="unlike", num_classes=10, image_size=8, in_channels=1)
    for layer in model.relu_layers():
        layer.relu.set_mask(torch.rand(layer.relu.shape) < 0.3)
    _, error, agrees, _ = run(request.getfixturevalue(protocol), model.eval(), runs=1)
    assert error < 1e-3
    assert agrees


@pytest.mark.parametrize(("protocol", "per_relu"), [("cheetah", 98.5), ("semi2k", 144)])
def test_a_gated_block_s_removal_is_seen(request, protocol, per_relu):
    parties = request.getfixturevalue(protocol)

    def times(a_run, operation):
        return next(o.times for o in a_run[0].statistics.operations if o.operation == operation)

    deep, shallow = run(parties, tiny())[0][0], run(parties, tiny(gated=(0, 5)))[0][0]
    assert times(deep, "convolution") - times(shallow, "convolution") == 2
    assert times(deep, "less") - times(shallow, "less") == 2
    assert sent(deep, "convolution") > sent(shallow, "convolution")
    relus = count_costs(tiny()).relus - count_costs(tiny(gated=(0, 5))).relus
    assert sent(deep, *RELUS) - sent(shallow, *RELUS) == pytest.approx(per_relu * relus, rel=0.03)


def test_parties_listen_on_loopback_alone(semi2k):
    inodes = {
        Path(link).name.strip("socket:[]")
        for party in semi2k.parties
        for link in (os.readlink(path) for path in Path(f"/proc/{party.pid}/fd").iterdir())  # noqa: PTH115
        if link.startswith("socket:")
    }
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{semi2k.parties[0].pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].partition(":")[0])
    assert listening == ["0100007F"] * 2


@pytest.mark.parametrize("name", networks.NAMES)
@pytest.mark.parametrize(("exit_name", "head"), [(FINAL, "bottleneck"), ("ac2", "bottleneck"), ("ac2", "grid")])
def test_the_function_computes_what_the_network_computes(name, exit_name, head):
    model = networks.gated(name, ac_after=2, head=head, in_channels=3)
    plain = fold_batchnorm(collapse(model, exit_name))
    function, weights = function_of(graph_of(plain))
    image = torch.randn(3, 16, 16)
    wanted = plain(image[None]).logits[exit_name].detach().numpy()
    assert function(*weights, image.permute(1, 2, 0).numpy()) == pytest.approx(
        wanted, rel=1e-4, abs=1e-4 * float(abs(wanted).max())
    )


# ---- files


def test_a_stored_model_is_measured_and_predicted(tmp_path):
    model = tiny(0.3, gated=(1,))
    save_model(model, tmp_path / "model")
    layers = [fold_batchnorm(collapse(tiny())), fold_batchnorm(collapse(tiny(gated=range(8))))]
    known = calibrate(layers, protocol="semi2k", described={}, runs=2)
    (tmp_path / "calibration.json").write_text(json.dumps(known.to_json()))
    path, found = measure_stored(
        str(tmp_path / "model"),
        exit=None,
        options=MeasureOptions(protocol="semi2k", warm=2),
        calibration=tmp_path / "calibration.json",
    )
    assert path == tmp_path / "model" / "pi-final-semi2k.json"
    assert json.loads(path.read_text()) == found
    assert found["max_error"] < 1e-3
    assert found["same_class"]
    assert found["meaning"] == "online phase, trusted dealer"
    assert found["bytes_runs"][0] == found["bytes_runs"][1] == found["bytes"]
    assert found["relus"] == count_costs(model).relus
    assert found["predicted"] == predict(model, FINAL, Calibrations({str(tmp_path / "calibration.json"): known})).summary()
    assert found["predicted"]["bytes"] == pytest.approx(found["bytes"], rel=0.02)
    assert set(found["parties"]) == {"server", "client"}


# ---- faults


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_party_that_is_killed_ends_the_run_and_the_other():
    with pytest.raises(PartyFault, match=r"party 1 \(process \d+\) was ended by signal 9 in mid-run"):  # noqa: PT012, SIM117
        with session("cheetah", limit_s=120) as parties:
            pids = [party.pid for party in parties.parties]
            threading.Timer(1.0, os.kill, (pids[1], signal.SIGKILL)).start()
            run(parties, tiny(), runs=100)
    assert not any(map(is_alive, pids))


def test_parties_that_die_while_nothing_is_asked_of_them_are_named():
    with pytest.raises(PartyFault, match=r"party 0 \(process \d+\) was ended by signal 9"):  # noqa: PT012, SIM117
        with session("semi2k", limit_s=120) as parties:
            processes = list(parties.parties)
            for party in processes:
                party.kill()
                party.wait()
            parties.load(compile_program(graph_of(fold_batchnorm(collapse(tiny()))), torch.zeros(1, 8, 8)))
    assert all(party.stdin.closed and party.stdout.closed for party in processes)


def test_free_ports_are_looked_for_again_when_one_is_taken_meanwhile(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port, look = taken.getsockname()[1], raysp.pi.session._free_ports
        found = iter([(look("127.0.0.1")[0], port)])
        monkeypatch.setattr("raysp.pi.session._free_ports", lambda host: next(found, None) or look(host))
        with session("semi2k", limit_s=60) as parties:
            assert len(parties.parties) == 2
    assert next(found, None) is None


def test_a_wrong_result_is_no_measurement(monkeypatch, tmp_path):
    model = tiny(0.1)
    save_model(model, tmp_path / "model")
    right = Spu.reconstruct
    monkeypatch.setattr(Spu, "reconstruct", lambda *given: right(*given) + 1000)
    with pytest.raises(PartyFault, match="off by 1e\\+03"):
        measure_stored(tmp_path / "model", exit=None, options=MeasureOptions(protocol="semi2k", warm=1))
    assert not list((tmp_path / "model").glob("pi-*"))


def test_a_party_s_memory_is_its_own():
    ballast = bytearray(2_500_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    with session("semi2k", limit_s=60) as parties:
        del ballast
        measured = run(parties, tiny(0.1), runs=1)[0][0]
    assert max(party.peak_bytes for party in measured) < 2e9


def test_a_port_in_use_is_named():
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        ports = (free.getsockname()[1], taken.getsockname()[1])
        free.close()
        with (
            pytest.raises(PartyFault, match=f"party 1 can't listen on 127.0.0.1:{ports[1]}: Address already in use"),
            session("semi2k", ports=ports, limit_s=60),
        ):
            pass


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "nobody.invalid"])
def test_a_foreign_address_is_refused(host):
    with pytest.raises(PartyFault, match=f"nothing can listen on {host}: "), session("semi2k", host=host):
        pass


def test_parties_meet_on_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with session("semi2k", host="::1", limit_s=60) as parties:
        assert run(parties, tiny(0.1), runs=1)[0]


def test_a_time_limit_ends_both():
    pids = []
    with pytest.raises(PartyFault, match="the time limit is over"):  # noqa: PT012, SIM117
        with session("cheetah", limit_s=600) as parties:
            pids += [party.pid for party in parties.parties]
            parties._deadline = time.monotonic() + 3  # both have started, however long that took
            run(parties, tiny(), runs=100)
    assert len(pids) == 2
    assert not any(map(is_alive, pids))


def test_parties_die_with_whoever_started_them(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom raysp.pi.session import session\nwith session('semi2k') as parties:\n"
        "    print(*[party.pid for party in parties.parties], flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as starter:
        pids = list(map(int, starter.stdout.readline().split()))
        assert all(map(is_alive, pids))
        starter.kill()
    wait_for(lambda: not any(map(is_alive, pids)), 20)
