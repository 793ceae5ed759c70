#!/bin/bash
# One run on four machines with eight GPUs each: sbatch deploy/slurm/train.sh CONFIG [--SETTING VALUE ...]
# GPT2FLOW_HOME, text and base model lie on the file system that all machines share. At the time limit the run saves a
# checkpoint and stops; the same command goes on from there.
#SBATCH --job-name=gpt2flow
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
set -euo pipefail

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
export GPT2FLOW_HOME="${GPT2FLOW_HOME:-$SLURM_SUBMIT_DIR/.gpt2flow}"

# shellcheck disable=SC2016  # the machine's own name is filled in on that machine
exec srun --kill-on-bad-exit=0 bash -c 'exec torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$0:29400" --local-addr "$SLURMD_NODENAME" \
    --shutdown-timeout 540 -m flows.train_worker "$@"' "$first" "$@"
