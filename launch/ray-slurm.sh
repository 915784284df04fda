#!/usr/bin/env bash
#SBATCH --job-name=neuroimagen-tune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@180
# A Ray cluster on the nodes of a SLURM job, and one command in it:
#   sbatch --nodes=4 launch/ray-slurm.sh neuroimagen tune margin --config … --out /shared/tune --address auto --resume
# The nodes share a file system. Three minutes before the time limit the command gets SIGTERM and trials save; the same sbatch
# line then goes on with the search (--resume also starts a search that does not exist yet).
set -euo pipefail
if [ $# -eq 0 ]; then
  echo "usage: sbatch $0 neuroimagen tune … --address auto" >&2
  exit 2
fi
export RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0 RAY_CHDIR_TO_TRIAL_DIR=0
# A token for this job keeps other users of the nodes out of its cluster.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE RAY_AUTH_TOKEN
port=$((20000 + ${SLURM_JOB_ID:-0} % 20000)) # jobs that share a node get different ports
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address="$head:$port"
resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}")
[ -z "${SLURM_GPUS_PER_TASK:-}" ] || resources+=(--num-gpus="$SLURM_GPUS_PER_TASK")

servers=()
cleanup() { for server in "${servers[@]}"; do kill "$server" 2>/dev/null || true; done; wait 2>/dev/null || true; }
trap cleanup EXIT

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --port="$port" --include-dashboard=false --disable-usage-stats "${resources[@]}" --block &
servers+=($!)
for node in "${nodes[@]:1}"; do
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" \
    ray start --address="$address" --disable-usage-stats "${resources[@]}" --block &
  servers+=($!)
done

# The command starts when every node has joined.
python - "$address" "${#nodes[@]}" <<'PYTHON'
import sys, time
import ray

address, wanted = sys.argv[1], int(sys.argv[2])
deadline = time.monotonic() + 300
while True:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        break
    except ConnectionError:
        if time.monotonic() > deadline:
            sys.exit(f"no Ray cluster answered at {address} within five minutes")
        time.sleep(2)
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > deadline:
        sys.exit(f"only {alive} of {wanted} nodes joined the Ray cluster within five minutes")
    time.sleep(1)
print(f"Ray cluster of {alive} nodes at {address}", flush=True)
PYTHON

export RAY_ADDRESS="$address"
"$@" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null || true' TERM INT
status=0
wait "$command" || status=$?
# A signal ends the first wait. Wait again, so that the command can save.
while kill -0 "$command" 2>/dev/null; do
  status=0
  wait "$command" || status=$?
done
exit "$status"
