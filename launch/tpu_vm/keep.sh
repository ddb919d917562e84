# shellcheck shell=bash
# Sourced by pod.sh: a run that survives preemption. The loop holds no state of its own: it can be
# stopped and started again on any machine at any time, and continues with what it finds.

# Exit codes after which a restart helps: another process was lost (lfpc_jax/distributed/peers.py),
# the same if JAX's runtime noticed first, killed, ended by a SIGTERM that came before it could save,
# and told to stop together with its host.
again_after='75|134|137|143|stopped'

give_up() {
  if [[ $KEEP_ON_FAILURE == yes ]]; then
    may_cost=yes
    fail "$1; it is not deleted (KEEP_ON_FAILURE=yes)"
  fi
  say "$1; deleting $NAME"
  delete_slice || fail "$1"
  fail "$1; nothing was left running"
}

# The state of the run in one word: unknown, preempted, finished, failed CODE, lost, idle, running, or
# mixed if some workers have finished and others have not.
run_state() {
  local request machine out states bad
  request=$(slice_state)
  machine=$(machine_state)
  if [[ $request == UNKNOWN || $machine == UNKNOWN ]]; then echo unknown && return; fi
  if [[ $request != ACTIVE || $machine != READY ]]; then echo preempted && return; fi
  if ! out=$(on all "$(worker status)" 2>/dev/null); then echo unknown && return; fi
  states=$(sed -n 's/.* state: //p' <<<"$out" | sed 's/^ended //' | sort -u)
  bad=$(grep -vxE "running|none|0|$again_after" <<<"$states" | head -n 1 || true)
  if [[ -z $states ]]; then
    echo unknown
  elif [[ -n $bad ]]; then
    echo "failed $bad"
  elif grep -qxE "$again_after" <<<"$states"; then
    echo lost
  else
    case $states in
      0) echo finished ;;
      none) echo idle ;;
      running) echo running ;;
      *) echo mixed ;;
    esac
  fi
}

# A slice from nothing. Only a refused or failed request is final: a slice may well be preempted
# again while it is being set up.
bring_up() {
  delete_slice || give_up "an old $NAME is in the way"
  pod_create
  on_interrupt # which pod_create has had for itself
  copy_code && set_up
}

on_interrupt() {
  may_cost=yes
  trap 'say "$NAME is no longer watched"; exit 130' INT TERM HUP
}

pod_keep() {
  local state restarts=0 odd=0 steady=0
  if [[ $dry == yes ]]; then
    pod_up && start_run && run_state >/dev/null && delete_slice
    return
  fi
  on_interrupt
  while true; do
    state=$(run_state)
    case $state in
      unknown | mixed) odd=$((odd + 1)) ;;
      *) odd=0 ;;
    esac
    if [[ $state == running ]]; then steady=$((steady + 1)); else steady=0; fi
    case $state in
      running) ((steady < 30)) || restarts=0 ;;
      finished)
        say "the run has finished; deleting $NAME"
        pod_delete
        return 0
        ;;
      failed*)
        on 0 "$(worker tail)" >&2 || true
        stop_run || true
        give_up "the run ended with exit code ${state#failed }; its log is above"
        ;;
      unknown | mixed)
        ((odd <= 10)) || give_up "$NAME or the run on it has been $state for too long"
        ;;
      *) # preempted, lost, idle
        restarts=$((restarts + 1))
        ((restarts <= MAX_RESTARTS)) || give_up "the run did not get going in $MAX_RESTARTS tries"
        say "the run is $state; try $restarts of $MAX_RESTARTS, from its last checkpoint"
        revive "$state" || say "that did not work; looking again"
        ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

revive() {
  if [[ $1 == preempted ]]; then
    bring_up || return 1
  elif [[ $1 == lost ]]; then
    stop_run || return 1
  fi
  start_run
}
