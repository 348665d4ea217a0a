#!/bin/bash
# Two nodes of eight GPUs: sbatch recipes/launch/slurm.sh recipes/quickstart.py --out runs/mine
#
# Ten minutes before the time limit, and when it is pre-empted, the job is put back into the queue under its number; the
# same command then goes on from the newest checkpoint of its run folder. --out has to be on storage all nodes share.
# Checked with bash alone: no cluster was at hand.
#SBATCH --job-name=distill
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@600
set -euo pipefail

# Slurm runs a copy of this script; the job knows where the script itself is, with two_nodes.yaml beside it.
script=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=\([^ ]*\).*/\1/p')
config=$(dirname "$script")/two_nodes.yaml
if [ ! -f "$config" ]; then
    echo "error: two_nodes.yaml is not beside $script; submit recipes/launch/slurm.sh itself" >&2
    exit 2
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 20000))
gpus=${SLURM_GPUS_ON_NODE:-8}

requeue() {
    trap '' USR1 TERM
    echo "job $SLURM_JOB_ID is put back into the queue"
    # srun and the launchers pass TERM on to every process of the run, and give it half a minute.
    kill -TERM $(jobs -p) && wait || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap requeue USR1 TERM

# One launcher a node, with the job's cores, which srun does not take over by itself since Slurm 22.05. SLURM_NODEID is
# each task's own, so it is left to the task's shell.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-64}" bash -c 'exec accelerate launch -q \
    --config_file "$3" \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * $2))" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$0" --main_process_port "$1" "${@:4}"' "$first" "$port" "$gpus" "$config" "$@" &
wait $!
