# shellcheck shell=bash
# Sourced by pod.sh: words, calls of gcloud, retries.

say() { echo "pod: $*" >&2; }

fail() {
  echo "error: $*" >&2
  exit 1
}

# Everything that could go wrong later, when a slice is there and costs.
check_settings() {
  are_there PROJECT ZONE NAME ACCELERATOR SLICES RUNTIME TIER NETWORK SUBNETWORK SERVICE_ACCOUNT BUCKET \
    CONFIG RUN SECRETS WAIT_MINUTES TRIES PAUSE_SECONDS POLL_SECONDS GRACE_SECONDS MAX_RESTARTS \
    KEEP_ON_FAILURE
  [[ $(declare -p ARGS 2>/dev/null) == "declare -a"* ]] ||
    fail "$settings: ARGS is missing or no list; give ARGS=(--flag value ...) or ARGS=()"
  check_settings_of_delete
  are_given ACCELERATOR RUNTIME TIER CONFIG RUN
  are_counts SLICES WAIT_MINUTES GRACE_SECONDS MAX_RESTARTS
  [[ $POLL_SECONDS =~ ^[0-9]{1,6}(\.[0-9]+)?$ && $POLL_SECONDS =~ [1-9] ]] ||
    fail "$settings: POLL_SECONDS=$POLL_SECONDS: a number above 0, without a unit"
  [[ $KEEP_ON_FAILURE == yes || $KEEP_ON_FAILURE == no ]] ||
    fail "$settings: KEEP_ON_FAILURE=$KEEP_ON_FAILURE is neither yes nor no"
  [[ $RUN =~ ^[A-Za-z0-9_][A-Za-z0-9._-]*$ ]] ||
    fail "$settings: RUN=$RUN: letters, digits, dots and dashes, no dot or dash first"
  [[ $TIER == spot || $TIER == reserved || $TIER == on-demand ]] ||
    fail "$settings: TIER=$TIER is none of spot, reserved, on-demand"
  [[ $BUCKET != gs://* ]] || fail "$settings: BUCKET=$BUCKET: give the name without gs://"
  [[ -z $SECRETS || -f $SECRETS ]] || fail "$settings: SECRETS=$SECRETS: no such file"
  [[ $TIER != spot || -n $BUCKET ]] ||
    fail "$settings: a preempted spot slice takes its disks along: set BUCKET, or another TIER"
  [[ $SLICES == 1 || -n $BUCKET ]] ||
    fail "$settings: SLICES=$SLICES share the run's folder: set BUCKET"
}

# No other setting may keep a slice there that costs.
check_settings_of_delete() {
  are_there PROJECT ZONE NAME TRIES PAUSE_SECONDS
  are_given PROJECT ZONE NAME
  are_counts TRIES
  [[ $PAUSE_SECONDS =~ ^(0|[1-9][0-9]{0,5})$ ]] ||
    fail "$settings: PAUSE_SECONDS=$PAUSE_SECONDS: a whole number from 0 to 999999, without a unit"
  [[ $NAME =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail "$settings: NAME=$NAME: small letters, digits and dashes, a letter first"
  [[ $dry == yes ]] || command -v gcloud >/dev/null ||
    fail "gcloud is not on the PATH; install the Google Cloud CLI and log in"
}

are_there() {
  local name
  for name in "$@"; do
    [[ -n ${!name+set} ]] || fail "$settings: $name is missing; settings.example.sh has its line"
  done
}

are_given() {
  local name
  for name in "$@"; do
    [[ -n ${!name} ]] || fail "$settings: $name is empty"
  done
}

are_counts() {
  local name
  for name in "$@"; do
    [[ ${!name} =~ ^[1-9][0-9]{0,5}$ ]] ||
      fail "$settings: $name=${!name}: a whole number from 1 to 999999, without a unit"
  done
}

# Prints a call as it could be typed, then makes it. Standard input is closed: gcloud must not ask.
call() {
  local word shown=""
  for word in "$@"; do shown+=" $(printf '%q' "$word")"; done
  echo "+$shown" >&2
  [[ $dry == yes ]] || "$@" </dev/null
}

tpus() { call gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE" --quiet; }

# again WHAT COMMAND...: tries it TRIES times with growing pauses.
again() {
  local what=$1 pause=$PAUSE_SECONDS try
  shift
  for ((try = 1; try <= TRIES; try++)); do
    if "$@"; then return 0; fi
    ((try < TRIES)) || break
    say "$what failed (try $try of $TRIES); again in ${pause}s"
    sleep "$pause"
    pause=$((pause * 2))
  done
  say "$what failed $TRIES times"
  return 1
}

# The TPU VMs, one a slice: as gcloud names them if there are several.
slices() {
  local number
  if ((SLICES == 1)); then echo "$NAME" && return; fi
  for ((number = 0; number < SLICES; number++)); do echo "$NAME-$number"; done
}

# on_slices COMMAND...: calls it with each slice, all at once; fails if it fails for any.
on_slices() {
  local slice waiting=() failed=0 one
  if ((SLICES == 1)); then
    "$@" "$NAME"
    return
  fi
  for slice in $(slices); do
    "$@" "$slice" &
    waiting+=($!)
  done
  for one in "${waiting[@]}"; do wait "$one" || failed=1; done
  return "$failed"
}

# on WORKER COMMAND: on the shell of a worker of the first slice, or of one as 1/3 (slice 1, worker
# 3), or on every worker of all slices with `all`; fails if it fails on any.
on() {
  local slice=$NAME worker=${1#*/}
  if [[ $1 == all ]]; then
    on_slices on_worker all "$2"
    return
  fi
  if ((SLICES > 1)); then
    if [[ $1 == */* ]]; then slice=$NAME-${1%%/*}; else slice=$NAME-0; fi
  fi
  on_worker "$worker" "$2" "$slice"
}

on_worker() { tpus tpu-vm ssh "$3" --worker="$1" --command="$2"; }

# put FILE NAME: a file into the home of every worker.
put() { on_slices put_on "$1" "$2"; }
put_on() { tpus tpu-vm scp "$1" "$3:$2" --worker=all; }
