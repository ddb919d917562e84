# shellcheck shell=bash
# Sourced by pod.sh: the slice itself, or several that come and go together, by way of a queued
# resource.

# Prints what gcloud says about a resource, NONE if it does not exist, or UNKNOWN if gcloud did not
# answer. Only the first two are reasons to act.
described() { # DRY ARGS...
  local out assumed=$1
  shift
  if [[ $dry == yes ]]; then
    tpus "$@"
    echo "$assumed"
  elif out=$(tpus "$@" 2>"$scratch/said"); then
    tail -n 1 <<<"$out"
  elif grep -qi 'not.found' "$scratch/said"; then
    echo NONE
  else
    tail -n 3 "$scratch/said" >&2
    echo UNKNOWN
  fi
}

# ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ...
slice_state() { described ACTIVE queued-resources describe "$NAME" --format='value(state.state)'; }

# READY, PREEMPTED, ...: a spot machine can be gone while its request is still ACTIVE. Of several
# slices the first state that is not READY.
machine_state() {
  local slice state
  for slice in $(slices); do
    state=$(described READY tpu-vm describe "$slice" --format='value(state)')
    [[ $state == READY ]] || break
  done
  echo "$state"
}

ask_for_slice() {
  local flags=(--accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME")
  if ((SLICES == 1)); then flags+=(--node-id="$NAME"); fi
  if ((SLICES > 1)); then flags+=(--node-count="$SLICES" --node-prefix="$NAME"); fi
  flags+=(--valid-until-duration="${WAIT_MINUTES}m")
  if [[ $TIER == spot ]]; then flags+=(--spot); fi
  if [[ $TIER == reserved ]]; then flags+=(--reserved); fi
  if [[ -n $NETWORK ]]; then flags+=(--network="$NETWORK"); fi
  if [[ -n $SUBNETWORK ]]; then flags+=(--subnetwork="$SUBNETWORK"); fi
  if [[ -n $SERVICE_ACCOUNT ]]; then flags+=(--service-account="$SERVICE_ACCOUNT"); fi
  local out try pause=$PAUSE_SECONDS
  for ((try = 1; try <= TRIES; try++)); do
    if out=$(tpus queued-resources create "$NAME" "${flags[@]}" 2>&1); then
      echo "$out" >&2
      return 0
    fi
    echo "$out" >&2
    # These do not pass by waiting.
    if grep -qiE 'quota|permission|forbidden|invalid|not.found' <<<"$out"; then
      say "refused for good: ask for quota or rights, or correct ACCELERATOR, RUNTIME and ZONE"
      return 1
    fi
    # A lost answer to a request that was taken: the next look at its state will tell.
    if grep -qi 'already.exists' <<<"$out"; then return 0; fi
    ((try < TRIES)) || break
    say "no request yet (try $try of $TRIES); again in ${pause}s"
    sleep "$pause"
    pause=$((pause * 2))
  done
  return 1
}

wait_for_slice() {
  local deadline=$((SECONDS + WAIT_MINUTES * 60)) state last=""
  while true; do
    state=$(slice_state)
    if [[ $state != "$last" ]]; then say "$NAME is $state"; fi
    last=$state
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | NONE) return 1 ;;
    esac
    if ((SECONDS >= deadline)); then
      say "$NAME was not there within $WAIT_MINUTES minutes (WAIT_MINUTES)"
      return 1
    fi
    sleep "$POLL_SECONDS"
  done
}

pod_create() {
  local state
  state=$(slice_state)
  if [[ $dry != yes ]]; then
    case $state in
      ACTIVE) say "$NAME is there already" && return 0 ;;
      NONE) ;;
      UNKNOWN) fail "gcloud does not say whether $NAME exists; see above" ;;
      FAILED | SUSPENDING | SUSPENDED) delete_slice || fail "an old $NAME is in the way" ;;
    esac
  fi
  # Whatever goes wrong from here on, and Control-C as well: nothing may stay that costs.
  may_cost=yes
  trap 'say "taking the request back"; delete_slice; exit 1' INT TERM HUP
  if ! { ask_for_slice && wait_for_slice; }; then
    delete_slice
    fail "there is no slice; nothing was left running"
  fi
  trap - INT TERM HUP
}

# Deletes and looks: a delete that was accepted is not yet a slice that is gone.
delete_slice() {
  local state try
  for ((try = 1; try <= TRIES; try++)); do
    state=$(slice_state)
    if [[ $state == NONE ]]; then may_cost=no && return 0; fi
    tpus queued-resources delete "$NAME" --force || true
    if [[ $dry == yes ]]; then return 0; fi
    state=$(slice_state)
    if [[ $state == NONE ]]; then may_cost=no && return 0; fi
    sleep "$PAUSE_SECONDS"
  done
  say "$NAME IS STILL $state AND MAY COST: delete it in the console"
  return 1
}

pod_delete() {
  delete_slice || fail "$NAME could not be deleted"
  say "$NAME is gone"
}
