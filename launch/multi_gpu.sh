#!/usr/bin/env bash
# Trains on the GPUs of this host, and with HOSTS on those of several, one process a host.
#
#   launch/multi_gpu.sh --config stage1.py --run runs/stage1 ...
#   HOSTS=2 HOST=0 COORDINATOR=10.0.0.1:8476 launch/multi_gpu.sh --config ...     # on 10.0.0.1
#   HOSTS=2 HOST=1 COORDINATOR=10.0.0.1:8476 launch/multi_gpu.sh --config ...     # on the other
#
# All hosts must share the run folder. A run that lost a process (exit 75, 134, 137) resumes from its
# last checkpoint when all hosts are back, up to RESTARTS times.
# CUDA_VISIBLE_DEVICES restricts the GPUs as usual; DRY_RUN=yes prints what would be run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

hosts=${HOSTS:-1}
host=${HOST:-}
coordinator=${COORDINATOR:-}
restarts=${RESTARTS:-5}
python=${PYTHON:-.venv/bin/python}

fail() {
  echo "error: $*" >&2
  exit 2
}

[[ $hosts =~ ^[1-9][0-9]*$ ]] || fail "HOSTS=$hosts is no number of hosts"
# Without this JAX would train on the CPU where it finds no CUDA, without a word that is seen.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda}
if ((hosts > 1)); then
  if [[ ! $host =~ ^[0-9]+$ ]] || ((host >= hosts)); then
    fail "HOST=$host: give this host's number, 0 to $((hosts - 1))"
  fi
  [[ $coordinator =~ ^.+:[0-9]+$ ]] || fail "COORDINATOR=$coordinator: give HOST:PORT of host 0"
  export MASTER_ADDR=${coordinator%:*} MASTER_PORT=${coordinator##*:} WORLD_SIZE=$hosts RANK=$host
fi
if [[ ${DRY_RUN:-no} == yes ]]; then
  env | grep -E '^(JAX_PLATFORMS|MASTER_ADDR|MASTER_PORT|WORLD_SIZE|RANK)=' | sort
  printf '%q ' "$python" -u launch/train.py "$@"
  echo
  exit 0
fi

child="" told=no
trap 'told=yes; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' TERM INT
for ((try = 0; ; try++)); do
  "$python" -u launch/train.py "$@" &
  child=$!
  code=0
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do # the wait was cut short by a signal
    code=0
    wait "$child" || code=$?
  done
  case $code in
    75 | 134 | 137) ;;
    *) exit "$code" ;;
  esac
  if [[ $told == yes ]] || ((try >= restarts)); then exit "$code"; fi
  echo "the run lost a process (exit code $code); restart $((try + 1)) of $restarts" >&2
  sleep "${PAUSE:-10}"
done
