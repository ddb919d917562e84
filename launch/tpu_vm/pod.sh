#!/usr/bin/env bash
# A TPU slice, or several as one run, from request to deletion. `pod.sh help` lists the commands; docs/pods.md explains them.
set -euo pipefail
if ((BASH_VERSINFO[0] * 10 + BASH_VERSINFO[1] < 44)); then
  echo "error: bash $BASH_VERSION is too old; 4.4 is needed" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

usage() {
  cat <<'HELP'
pod.sh [--dry-run] [--settings FILE] COMMAND

  create   ask for the slice and wait until it is there; takes the request back if it fails
  copy     put this checkout's tracked files on every worker, checked by sum
  setup    Python, packages, the bucket's mount, and a check that all workers see each other
  up       create, copy and setup; deletes the slice if one of them fails
  run      start the training on every worker, in the background
  keep     run, and again after every preemption, until it has finished; then deletes the slice
  status   of the slice and of the run on every worker
  logs     follow the log of worker 0 (logs N: of worker N; logs S/N: of slice S)
  stop     tell the run to save and end
  fetch    bring the run's folder here, into runs/, without its checkpoints (fetch all: with them)
  delete   delete the slice and see that it is gone

--dry-run prints every command and runs none. Settings: launch/tpu_vm/settings.sh by default.
HELP
}

dry=no
settings=$here/settings.sh
while [[ ${1:-} == --* ]]; do
  case $1 in
    --dry-run) dry=yes ;;
    --settings) settings=${2:?--settings needs a file} && shift ;;
    --help) usage && exit 0 ;;
    *) echo "error: unknown flag $1; see pod.sh help" >&2 && exit 2 ;;
  esac
  shift
done
command=${1:-help}
shift || true
if [[ $command == help ]]; then
  usage
  exit 0
fi
if [[ ! -f $settings ]]; then
  echo "error: no settings at $settings; copy $here/settings.example.sh there and edit it" >&2
  exit 2
fi
# shellcheck source=settings.example.sh
source "$settings"
scratch=$(mktemp -d)
may_cost=no
ended() {
  local code=$?
  rm -rf "$scratch"
  if [[ $code != 0 && $may_cost == yes ]]; then
    echo "pod: $NAME MAY STILL BE THERE AND COST: pod.sh status says, pod.sh delete ends it" >&2
  fi
}
trap ended EXIT
# shellcheck source=common.sh
source "$here/common.sh"
# shellcheck source=slice.sh
source "$here/slice.sh"
# shellcheck source=job.sh
source "$here/job.sh"
# shellcheck source=keep.sh
source "$here/keep.sh"
if [[ $command == delete ]]; then check_settings_of_delete; else check_settings; fi

case $command in
  create | copy | setup | up | run | keep | status | stop | delete) "pod_$command" ;;
  logs | fetch) "pod_$command" "$@" ;;
  *) fail "unknown command $command; see pod.sh help" ;;
esac
