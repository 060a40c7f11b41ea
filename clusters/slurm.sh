#!/usr/bin/env bash
# A sweep as one Slurm job, with a Ray of its own on the job's nodes: from the top of the checkout, on a login node,
#
#     sbatch clusters/slurm.sh python sweeps/budget_sweep.py --preset cifar100 --gpus-per-stage 0.25 --storage /shared/RUN
#
# All after the script's name is the command, which finds this Ray by RAY_ADDRESS. Results go to a directory that all nodes see,
# or to S3. Before its time is up, and when the job is preempted, the command is interrupted; the requeued job runs it again,
# which goes on from the last checkpoints. GPUs need NVIDIA's driver 580 or newer on the nodes, for the torch that pip installs.
# Fill in what your cluster asks for, here or as flags of sbatch:
#SBATCH --job-name=raysp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# B: to this script only; 180 seconds before the end, as notice_s below.
#SBATCH --signal=B:USR1@180
# shellcheck disable=SC2329 # `attend` calls by name
set -euo pipefail

venv=${RAYSP_VENV:-${SLURM_SUBMIT_DIR:-.}/.venv} # FILL IN, or export RAYSP_VENV: where raysp is installed, on all nodes
shared=${RAYSP_SHARED:-$HOME/.raysp} # a directory of yours that all nodes see
patience_s=300 # how long nodes may take to join
notice_s=180

refuse() { echo "error: $*" >&2; exit 2; }

[ $# -gt 0 ] || refuse "no command; expected: sbatch clusters/slurm.sh python sweeps/budget_sweep.py ..."
[ -n "${SLURM_JOB_NODELIST:-}" ] && [ -n "${SLURMD_NODENAME:-}" ] || refuse "not in a batch job; expected: sbatch $0 ..."
if [ -f "$venv/bin/activate" ]; then
    # shellcheck disable=SC1091
    . "$venv/bin/activate"
elif [ -n "${RAYSP_VENV:-}" ] || ! type python ray > /dev/null 2>&1; then
    refuse "no environment with raysp: $venv/bin/activate isn't there; run sbatch at the top of the checkout, export" \
        "RAYSP_VENV, the virtual environment's directory, or activate another kind of environment before sbatch"
fi

job=$SLURM_JOB_ID # the last task of an array has the whole array's number
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
if ends=$(date -d "$(SLURM_TIME_FORMAT=standard squeue -h -j "$job" -o %e)" +%s 2> /dev/null) &&
    [ $((ends - $(date +%s))) -lt $((notice_s + 60)) ]; then
    refuse "the job's time is up in $((ends - $(date +%s))) s, and the command is interrupted $notice_s s before that; expected" \
        "--time=$((notice_s / 60 + 2)) (minutes) or more"
fi

mapfile -t others < <(scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -Fxv "$SLURMD_NODENAME")
nodes=$((${#others[@]} + 1)) address=127.0.0.1
if [ "$nodes" -gt 1 ]; then # the one from which this node reaches another: its own name is often 127.0.1.1 to it
    other=$(scontrol show node "${others[0]}" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
    address=$(python -c 'import socket, sys
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect((sys.argv[1], 9))
print(udp.getsockname()[0])' "$other" 2> /dev/null) || refuse "$SLURMD_NODENAME knows no IPv4 address of ${others[0]} ($other)," \
        "and Ray needs one; until your cluster has that, use --nodes=1"
fi

child='' head='' workers='' interrupted=''
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$shared/token-$SLURM_JOB_ID
# Sockets lie below this directory, and the kernel allows their paths 107 characters; TMPDIR is often too long for that. Ray lets
# everyone into the directory that it makes in there, so this one is closed.
RAY_TMPDIR=$(mktemp -d /tmp/rs.XXXXXXXX)
export RAY_TMPDIR
# Else Ray waits half a minute before it obeys SIGTERM, which may be all that a preempted job has.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

gone() { # whether process $1 ends within $2 seconds
    for _ in $(seq $(($2 * 5))); do kill -0 "$1" 2> /dev/null || return 0; sleep 0.2; done
    return 1
}

end_process() { # gives process $1, if there is one, $2 seconds to obey SIGTERM
    [ -n "$1" ] && kill "$1" 2> /dev/null || return 0
    gone "$1" "$2" || kill -s KILL "$1" 2> /dev/null || true
}

finish() { # ends what this job started, by process number: `ray stop` would end other jobs' Ray on these nodes as well
    trap - EXIT
    end_process "$child" 60
    exec 9>&- # tells the workers; srun would make SIGKILL of a SIGTERM
    end_process "$head" 5
    rm -rf "$RAY_AUTH_TOKEN_PATH" "$RAY_TMPDIR" || true
    [ -z "$workers" ] || gone "$workers" 20 || true
}
trap finish EXIT
trap 'interrupted=time; end_process "$child" 90' USR1
# Slurm requeues a preempted job by itself, and kills after KillWait, usually 30 s: enough must be left for finish.
trap 'interrupted=preempted; end_process "$child" 15' TERM

attend() { # runs a command that the traps may end, and returns its status
    local status=0
    [ -z "$interrupted" ] || return 143
    "$@" 9>&- &
    child=$!
    [ -z "$interrupted" ] || end_process "$child" 15 # a trap ran before it had the number
    wait "$child" || true # also ends when a trap has run
    while kill -0 "$child" 2> /dev/null; do wait "$child" || true; done
    wait "$child" || status=$? # the shell remembers
    child=''
    return "$status"
}

# Other users of these nodes can reach Ray's ports, so it asks for a token: the job's own, in a file that only its owner can read.
# What travels in the environment is the file's name.
(umask 077 && mkdir -p "$shared" && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")

start_ray() { # in the foreground, with what of this node is the job's
    local memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * SLURM_CPUS_ON_NODE))} shm store # MiB
    shm=$(df --block-size=1M --output=avail /dev/shm | tail -n 1)
    store=$((memory * 3 / 10 < shm * 9 / 10 ? memory * 3 / 10 : shm * 9 / 10))
    [ "$store" -lt 80 ] || set -- "$@" --object-store-memory="${store}000000" # or Ray takes a share of all the node's memory
    exec ray start "$@" --block --temp-dir="$RAY_TMPDIR/ray" --num-cpus="$SLURM_CPUS_ON_NODE" --min-worker-port=0 \
        --max-worker-port=0 --dashboard-agent-listen-port=0 --disable-usage-stats
}

worker() { # what each node runs, until this script lets go of its standard input; nothing where the head is
    [ "$SLURMD_NODENAME" != "$RAYSP_HEAD" ] || return 0
    local ray reader
    RAY_TMPDIR=$(mktemp -d /tmp/rs.XXXXXXXX)
    start_ray --address="$RAY_ADDRESS" < /dev/null &
    ray=$!
    trap 'kill "$ray" 2> /dev/null' TERM
    { read -r _; kill "$ray" 2> /dev/null; } <&0 &
    reader=$!
    while kill -0 "$ray" 2> /dev/null; do wait "$ray"; done
    kill "$reader" 2> /dev/null
    rm -rf "$RAY_TMPDIR"
}

head_answers() {
    until [ -s "$RAY_TMPDIR/ray/ray_current_cluster" ]; do
        kill -0 "$head" 2> /dev/null || { echo "error: Ray's head did not start" >&2; return 1; }
        sleep 0.2
    done
}

all_joined() { # waits until $1 nodes are in the cluster; fails at once when one of the other processes has gone
    exec python - "$patience_s" "$@" <<'PYTHON'
import os
import sys
import time

import ray

patience_s, nodes, *processes = map(int, sys.argv[1:])
deadline = time.monotonic() + patience_s
while True:
    try:
        for process in processes:
            os.kill(process, 0)
        if not ray.is_initialized():
            ray.init(logging_level="CRITICAL", log_to_driver=False)
        if sum(node["Alive"] for node in ray.nodes()) >= nodes:
            break
    except ProcessLookupError:
        sys.exit("error: Ray has ended before all nodes had joined")
    except ConnectionError:
        pass
    if time.monotonic() > deadline:
        sys.exit(f"error: {nodes} nodes were expected, but did not join within {patience_s} s")
    time.sleep(0.5)
PYTHON
}

run() {
    start_ray --head --node-ip-address="$address" --port=0 --include-dashboard=false &
    head=$!
    attend head_answers || return
    RAY_ADDRESS=$(< "$RAY_TMPDIR/ray/ray_current_cluster")
    export RAY_ADDRESS RAYSP_HEAD=$SLURMD_NODENAME
    if [ "$nodes" -gt 1 ]; then
        # A step of all nodes fits, however the job asked for GPUs. What these variables ask for may be less than the job has.
        exec 9> >(exec env -u SLURM_CPUS_PER_TASK -u SLURM_TRES_PER_TASK -u SLURM_GPUS_PER_NODE srun --nodes="$nodes" \
            --ntasks="$nodes" --ntasks-per-node=1 --cpu-bind=none --wait=0 --kill-on-bad-exit=0 \
            bash -c "$(declare -f start_ray worker); worker")
        workers=$!
    fi
    attend all_joined "$nodes" "$head" ${workers:+"$workers"} || return
    attend "$@"
}

status=0
run "$@" || status=$?
finish
if [ "$interrupted" = time ] && [ "$status" -ne 0 ]; then
    scontrol requeue "$job" || echo "not requeued; sbatch the same command, and it goes on from the last checkpoints" >&2
fi
exit "$status"
