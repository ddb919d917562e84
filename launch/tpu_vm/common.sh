# shellcheck shell=bash
# Sourced by pod.sh: words, calls of gcloud, retries.

say() { echo "pod: $*" >&2; }

fail() {
  echo "error: $*" >&2
  exit 1
}

# Everything that could go wrong later, when a slice is there and costs.
check_settings() {
  local name
  for name in PROJECT ZONE NAME ACCELERATOR RUNTIME TIER NETWORK SUBNETWORK SERVICE_ACCOUNT BUCKET \
    CONFIG RUN SECRETS WAIT_MINUTES TRIES PAUSE_SECONDS POLL_SECONDS GRACE_SECONDS MAX_RESTARTS \
    KEEP_ON_FAILURE; do
    [[ -n ${!name+set} ]] || fail "$settings: $name is missing; settings.example.sh has its line"
  done
  [[ $(declare -p ARGS 2>/dev/null) == "declare -a"* ]] ||
    fail "$settings: ARGS is missing or no list; give ARGS=(--flag value ...) or ARGS=()"
  for name in PROJECT ZONE NAME ACCELERATOR RUNTIME TIER CONFIG RUN; do
    [[ -n ${!name} ]] || fail "$settings: $name is empty"
  done
  for name in WAIT_MINUTES TRIES GRACE_SECONDS MAX_RESTARTS; do
    [[ ${!name} =~ ^[1-9][0-9]{0,5}$ ]] ||
      fail "$settings: $name=${!name}: a whole number from 1 to 999999, without a unit"
  done
  [[ $PAUSE_SECONDS =~ ^(0|[1-9][0-9]{0,5})$ ]] ||
    fail "$settings: PAUSE_SECONDS=$PAUSE_SECONDS: a whole number from 0 to 999999, without a unit"
  [[ $POLL_SECONDS =~ ^[0-9]{1,6}(\.[0-9]+)?$ && $POLL_SECONDS =~ [1-9] ]] ||
    fail "$settings: POLL_SECONDS=$POLL_SECONDS: a number above 0, without a unit"
  [[ $KEEP_ON_FAILURE == yes || $KEEP_ON_FAILURE == no ]] ||
    fail "$settings: KEEP_ON_FAILURE=$KEEP_ON_FAILURE is neither yes nor no"
  [[ $NAME =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail "$settings: NAME=$NAME: small letters, digits and dashes, a letter first"
  [[ $RUN =~ ^[A-Za-z0-9_][A-Za-z0-9._-]*$ ]] ||
    fail "$settings: RUN=$RUN: letters, digits, dots and dashes, no dot or dash first"
  [[ $TIER == spot || $TIER == reserved || $TIER == on-demand ]] ||
    fail "$settings: TIER=$TIER is none of spot, reserved, on-demand"
  [[ $BUCKET != gs://* ]] || fail "$settings: BUCKET=$BUCKET: give the name without gs://"
  [[ -z $SECRETS || -f $SECRETS ]] || fail "$settings: SECRETS=$SECRETS: no such file"
  [[ $TIER != spot || -n $BUCKET ]] ||
    fail "$settings: a preempted spot slice takes its disks along: set BUCKET, or another TIER"
  [[ $dry == yes ]] || command -v gcloud >/dev/null ||
    fail "gcloud is not on the PATH; install the Google Cloud CLI and log in"
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

# on WORKER COMMAND: on a worker's shell, or on every one with `all`; fails if it fails on any.
on() { tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2"; }

# put FILE NAME: a file into the home of every worker.
put() { tpus tpu-vm scp "$1" "$NAME:$2" --worker=all; }
