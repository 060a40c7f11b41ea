"""The cluster files: what Ray makes of them, and what they open to whom."""

import ipaddress
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's and boto's own imports warn

TOP = Path(__file__).parents[2]
RAY_UP = ["cluster.yaml", "clusters/local.yaml"]
EVERY = [*RAY_UP, "clusters/rayjob.yaml", "clusters/slurm.sh"]


def read(name):
    return yaml.safe_load((TOP / name).read_text())


def prepared(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(config)
    validate_config(config)
    return config


@pytest.fixture(params=RAY_UP)
def config(request):
    return prepared(read(request.param))


def starts(config):
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def test_ray_accepts_it_and_nothing_is_left_to_its_defaults(config):
    assert len(starts(config)) == 2
    for fragment in ("anaconda", "wheels", "0.0.0.0"):  # what Ray's default setup and start commands would bring in
        assert fragment not in json.dumps(config)


def test_every_ray_asks_for_a_token_which_every_node_gets(config):
    for start in starts(config):
        assert "RAY_AUTH_MODE=token" in start.split("ray start")[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["file_mounts"]["~/raysp"] == "."
    assert any("chmod 600 ~/.ray/auth_token" in command for command in config["setup_commands"])


def test_the_dashboard_would_listen_on_loopback_only(config):
    head, worker = starts(config)
    assert "--dashboard-host=127.0.0.1" in head
    assert "dashboard" not in worker


def test_all_nodes_get_the_same_versions(config):
    pins = re.findall(r"'ray\[tune,train\]==([\d.]+)'", " ".join(config["head_setup_commands"]))
    assert len(pins) == 1
    assert re.search(r"--python \d+\.\d+\.\d+ ", " ".join(config["setup_commands"]))  # to the patch: Ray compares it
    assert any("freeze" in command and command.endswith("> ~/versions.txt") for command in config["head_setup_commands"])
    assert config["cluster_synced_files"] == ["~/versions.txt"]
    assert any("-r ~/versions.txt" in command for command in config["worker_setup_commands"])


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/rayjob.yaml", "clusters/slurm.sh", "docs/how-to/several-machines.md"])
def test_the_driver_that_torch_needs_is_named(name):
    assert re.search(r"driver\b[^.]*\b580 or newer", (TOP / name).read_text())


def test_the_files_agree_on_versions():
    pins = {name: re.findall(r"ray\[tune,train\]==([\d.]+)", (TOP / name).read_text()) for name in RAY_UP}
    job = read("clusters/rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"]
    assert pins == {name: [job] for name in RAY_UP}
    assert f"rayproject/ray:{job}-" in (TOP / "clusters/rayjob.yaml").read_text()


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_open_to_the_world_and_every_address_is_an_example(name):
    text = (TOP / name).read_text()
    assert "0.0.0.0" not in text and "::/0" not in text
    for address in re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text):
        number = ipaddress.ip_address(address)
        examples = [ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
        assert number.is_loopback or any(number in net for net in examples)


@pytest.mark.parametrize(
    ("name", "placeholders"),
    [
        ("cluster.yaml", ["region: us-west-2", "ami-0", "[sg-0", "max_workers: "]),
        ("clusters/local.yaml", ["head_ip: ", "worker_ips: ", "ssh_user: ", "ssh_private_key: ", "min_workers: "]),
        ("clusters/rayjob.yaml", ["image: ", "maxReplicas: "]),
        ("clusters/slurm.sh", ["venv="]),
    ],
)
def test_what_must_be_filled_in_says_so(name, placeholders):
    lines = [line for line in (TOP / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    for placeholder in placeholders:
        places = [line for line in lines if placeholder in line]
        assert places and all("FILL IN" in line for line in places), placeholder


class TestAws:
    def test_the_head_runs_no_stage_and_workers_come_and_go_on_spot(self):
        head, gpu = (prepared(read("cluster.yaml"))["available_node_types"][name] for name in ("head", "gpu"))
        assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
        assert gpu["resources"]["GPU"] == 1 and gpu["min_workers"] == 0 and gpu["max_workers"] == 4
        assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert "InstanceMarketOptions" not in head["node_config"]

    def test_image_firewall_and_roles_are_given_for_both_kinds_of_node(self):
        configs = [kind["node_config"] for kind in read("cluster.yaml")["available_node_types"].values()]
        for config in configs:
            assert config["ImageId"] == configs[0]["ImageId"]
            assert config["SecurityGroupIds"] == configs[0]["SecurityGroupIds"]  # by number: else Ray makes an open one
            assert config["IamInstanceProfile"]["Name"] in ("raysp-head", "raysp-worker")

    def test_on_a_simulated_account(self, tmp_path, monkeypatch):
        moto = pytest.importorskip("moto")
        import boto3
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        monkeypatch.syspath_prepend(TOP)
        from clusters import aws

        monkeypatch.setenv("HOME", str(tmp_path))  # Ray leaves the key there
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        with moto.mock_aws():
            config = read("cluster.yaml")
            region = config["provider"]["region"]
            ec2, iam = boto3.client("ec2", region), boto3.client("iam", region)
            image = ec2.describe_images()["Images"][0]["ImageId"]
            aws.security_group(ec2, "198.51.100.1/32")
            group = aws.security_group(ec2, "203.0.113.7/32")  # the same one, from a new address
            for _ in range(2):
                aws.roles(iam, "bucket")
            for kind in config["available_node_types"].values():
                kind["node_config"] |= {"ImageId": image, "SecurityGroupIds": [group]}
            groups = ec2.describe_security_groups()["SecurityGroups"]
            resolved = bootstrap_aws(prepared(config))
            assert ec2.describe_security_groups()["SecurityGroups"] == groups  # Ray adds no group, and no rule
            provider = AWSNodeProvider(resolved["provider"], resolved["cluster_name"])
            for name, kind in resolved["available_node_types"].items():
                provider.create_node(kind["node_config"], {"ray-user-node-type": name}, 1)
            nodes = [node for reservation in ec2.describe_instances()["Reservations"] for node in reservation["Instances"]]
            policy = iam.get_role_policy(RoleName="raysp-worker", PolicyName="raysp")["PolicyDocument"]

        everything, ssh = next(found for found in groups if found["GroupId"] == group)["IpPermissions"]
        assert everything["IpProtocol"] == "-1" and everything["IpRanges"] == []
        assert [pair["GroupId"] for pair in everything["UserIdGroupPairs"]] == [group]
        assert (ssh["FromPort"], ssh["ToPort"], ssh["IpRanges"]) == (22, 22, [{"CidrIp": "203.0.113.7/32"}])
        assert [(node["InstanceType"], node.get("InstanceLifecycle")) for node in nodes] == [
            ("m6i.xlarge", None),
            ("g5.xlarge", "spot"),
        ]
        assert all([found["GroupId"] for found in node["SecurityGroups"]] == [group] for node in nodes)
        assert [node["IamInstanceProfile"]["Arn"].split("/")[-1] for node in nodes] == ["raysp-head", "raysp-worker"]
        assert not any("ec2:" in json.dumps(statement) for statement in policy["Statement"])

    @pytest.mark.parametrize("wrong", ["0.0.0.0/0", "10.0.0.0/8", "::/0", "here"])
    def test_ssh_from_everywhere_is_refused(self, wrong):
        pytest.importorskip("boto3")
        done = subprocess.run(
            [sys.executable, TOP / "clusters/aws.py", "--region", "r", "--bucket", "b", "--ssh-from", wrong],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and "--ssh-from" in done.stderr


@pytest.mark.parametrize("name", RAY_UP)
@pytest.mark.parametrize("options", [("--login", "-i", "-c"), ("-c",)], ids=["login shell", "plain shell"])
def test_commands_over_ssh_find_ray_and_the_token(name, options, tmp_path):
    (tmp_path / ".bashrc").write_text("case $- in *i*) ;; *) return;; esac\n")  # how Ubuntu's begins
    (tmp_path / ".profile").write_text(". ~/.bashrc\n")
    ray = tmp_path / "venv/bin/ray"
    ray.parent.mkdir(parents=True)
    ray.write_text("#!/bin/sh\n")
    ray.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    profile = [command for command in read(name)["setup_commands"] if "raysp_env" in command]
    assert len(profile) == 2
    for command in profile * 2:  # `ray up` runs them each time
        subprocess.run(["bash", "-c", command], env=environment, check=True)
    assert (tmp_path / ".bashrc").read_text().count("raysp_env") == 1
    ask = "source ~/.bashrc; command -v ray; echo $RAY_AUTH_MODE"
    done = subprocess.run(["bash", *options, ask], env=environment, capture_output=True, text=True, start_new_session=True)
    assert done.stdout.split() == [str(ray), "token"]


def test_own_machines_keep_what_else_runs_on_them():
    text = (TOP / "clusters/local.yaml").read_text()
    config = prepared(read("clusters/local.yaml"))
    assert not any("ray stop" in command for key, value in config.items() if "commands" in key for command in value)
    assert "RAY_enable_autoscaler_v2=0" in config["head_start_ray_commands"][0]
    head = config["provider"]["head_ip"]
    assert f"--node-ip-address={head} " in text
    assert config["min_workers" if "min_workers" in config else "max_workers"] == len(config["provider"]["worker_ips"])


def test_line_ends_stay_as_shells_need_them_whatever_git_is_told():
    files = ["clusters/slurm.sh", ".ci/run", "cluster.yaml", "clusters/local.yaml"]
    asked = subprocess.run(["git", "check-attr", "eol", "--", *files], capture_output=True, text=True, cwd=TOP)
    if asked.returncode:
        pytest.skip("no checkout, or no git")
    assert asked.stdout.splitlines() == [f"{file}: eol: lf" for file in files]


def test_own_machines_count_the_cpus_that_they_may_use(config):
    if config["provider"]["type"] == "local":  # the cloud's are given whole
        assert all('--num-cpus="$(raysp doctor --cpus)" ' in start for start in starts(config))


def test_kubernetes_job_has_what_the_operator_requires():
    job = read("clusters/rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert {"entrypoint", "rayClusterSpec", "shutdownAfterJobFinishes"} <= spec.keys()
    assert spec["ttlSecondsAfterFinished"] > 0 and spec["backoffLimit"] > 0
    assert shlex.split(spec["entrypoint"])[:2] == ["python", "sweeps/budget_sweep.py"]
    cluster = spec["rayClusterSpec"]
    assert isinstance(cluster["rayVersion"], str)  # 2.60 would be a number
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    head, (worker,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0"} and head["serviceType"] == "ClusterIP"
    assert {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"} <= worker.keys()
    assert worker["minReplicas"] == 0 < worker["maxReplicas"]
    text = (TOP / "clusters/rayjob.yaml").read_text()
    images = set()
    for group in (head, worker):
        account = group["template"]["spec"]["serviceAccountName"]
        assert f"kubectl create serviceaccount {account}\n" in text
        (container,) = group["template"]["spec"]["containers"]
        images.add(container["image"])
        assert all(isinstance(value, str) for kind in container["resources"].values() for value in kind.values())
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert len(images) == 1
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
