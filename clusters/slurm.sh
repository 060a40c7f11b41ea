#!/usr/bin/env bash
# A sweep as one Slurm job, with a Ray of its own on the job's nodes: from the top of the checkout, on a login node,
#
#     sbatch clusters/slurm.sh python sweeps/budget_sweep.py --preset cifar100 --gpus-per-stage 0.25 --storage /shared/RUN
#
# All after the script's name is the command, which finds this Ray by RAY_ADDRESS. Results go to a directory that all nodes see,
# or to S3. Before its time is up, and when the job is preempted, the command is interrupted; the requeued job runs it again,
# which goes on from the last checkpoints. Fill in what your cluster asks for, here or as flags of sbatch:
#SBATCH --job-name=raysp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# B: to this script only; 180 seconds before the end.
#SBATCH --signal=B:USR1@180
set -euo pipefail

venv=${RAYSP_VENV:-${SLURM_SUBMIT_DIR:-.}/.venv} # FILL IN, or export RAYSP_VENV: where raysp is installed, on all nodes
shared=${RAYSP_SHARED:-$HOME/.raysp} # a directory of yours that all nodes see
patience_s=300 # how long nodes may take to join
# shellcheck disable=SC1091
[ ! -f "$venv/bin/activate" ] || . "$venv/bin/activate"
[ $# -gt 0 ] || { echo "no command; expected: sbatch clusters/slurm.sh python sweeps/budget_sweep.py ..." >&2; exit 2; }

[ -n "${SLURM_JOB_ID:-}" ] && [ -n "${SLURM_JOB_NODELIST:-}" ] || { echo "not in a Slurm job; expected: sbatch clusters/slurm.sh ..." >&2; exit 2; }

# Other users of these nodes can reach Ray's ports, so it asks for a token: the job's own, in a file that only its owner can read.
# What travels in the environment is the file's name.
umask 077
mkdir -p "$shared"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$shared/token-$SLURM_JOB_ID
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

# Sockets lie below this directory, and the kernel allows their paths 107 characters; TMPDIR is often too long for that.
export RAYSP_TMP=/tmp/rs$SLURM_JOB_ID
export RAY_TMPDIR=$RAYSP_TMP
# Else Ray waits half a minute before it obeys SIGTERM, which may be all that a preempted job has.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

driver='' head='' workers='' interrupted=''

end_process() { # waits up to $3 seconds for process $1 to obey signal $2
    [ -n "$1" ] && kill -s "$2" "$1" 2>/dev/null || return 0
    for _ in $(seq "$3"); do kill -0 "$1" 2>/dev/null || return 0; sleep 1; done
    kill -s KILL "$1" 2>/dev/null || true
}

finish() { # ends what this job started, by process number: `ray stop` would end other jobs' Ray on these nodes as well
    trap - EXIT
    end_process "$driver" TERM 60
    end_process "$workers" TERM 20
    end_process "$head" TERM 20
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT
trap 'interrupted=time; end_process "$driver" TERM 90' USR1
trap 'interrupted=preempted; end_process "$driver" TERM 60' TERM # Slurm requeues a preempted job by itself

# What a node's task runs. Ray in the foreground, so that its processes end with the task; a shell around it that passes SIGTERM
# on and leaves nothing in /tmp.
# shellcheck disable=SC2016
node='trap '\''kill "$ray" 2>/dev/null'\'' TERM
mkdir -p "$RAYSP_TMP"
ray start "$@" --block --temp-dir="$RAYSP_TMP" --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --min-worker-port=0 --max-worker-port=0 \
    --dashboard-agent-listen-port=0 --disable-usage-stats &
ray=$!
status=0; wait "$ray" || status=$?
while kill -0 "$ray" 2>/dev/null; do wait "$ray" || true; done
rm -rf "$RAYSP_TMP"
exit "$status"'

step=(srun --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=127.0.0.1 # a node alone needs no name that resolves
[ ${#hosts[@]} -eq 1 ] || address=$(getent ahostsv4 "${hosts[0]}" | awk 'NR == 1 { print $1 }')

alive() { # waits until $1 nodes are in the cluster; fails at once when process $2 is gone
    python - "$RAY_ADDRESS" "$@" "$patience_s" <<'PYTHON'
import os
import sys
import time

import ray

address, nodes, process, patience_s = sys.argv[1], *map(int, sys.argv[2:])
deadline = time.monotonic() + patience_s
while True:
    try:
        os.kill(process, 0)
        if not ray.is_initialized():
            ray.init(address=address, logging_level="CRITICAL", log_to_driver=False)
        if sum(node["Alive"] for node in ray.nodes()) >= nodes:
            break
    except ProcessLookupError:
        sys.exit(1)
    except ConnectionError:
        pass
    if time.monotonic() > deadline:
        sys.exit(f"{nodes} nodes were expected, but did not join within {patience_s} s")
    time.sleep(1)
PYTHON
}

# The port was free when we looked; where somebody took it since, take another.
for attempt in 1 2 3 4 5; do
    port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
    export RAY_ADDRESS=$address:$port
    "${step[@]}" --nodes=1 --ntasks=1 --nodelist="${hosts[0]}" bash -c "$node" node --head --node-ip-address="$address" \
        --port="$port" --include-dashboard=false &
    head=$!
    alive 1 "$head" && break
    end_process "$head" TERM 20
    head=''
    echo "Ray's head did not start at $RAY_ADDRESS (attempt $attempt)" >&2
done
[ -n "$head" ] || exit 1

if [ ${#hosts[@]} -gt 1 ]; then
    others=$((${#hosts[@]} - 1))
    "${step[@]}" --nodes="$others" --ntasks="$others" --nodelist="$(IFS=,; echo "${hosts[*]:1}")" bash -c "$node" node \
        --address="$RAY_ADDRESS" &
    workers=$!
    alive "${#hosts[@]}" "$workers"
fi

status=143
if [ -z "$interrupted" ]; then
    "$@" &
    driver=$!
    wait "$driver" || true # also ends when a trap has run
    while kill -0 "$driver" 2>/dev/null; do wait "$driver" || true; done
    status=0
    wait "$driver" || status=$? # the shell remembers
    driver=''
fi

finish
if [ "$interrupted" = time ] && [ "$status" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
