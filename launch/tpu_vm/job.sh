# shellcheck shell=bash
# Sourced by pod.sh: code, packages and the run on the workers. What happens there is worker.sh.

run_folder() { if [[ -n $BUCKET ]]; then echo "bucket/runs/$RUN"; else echo "runs/$RUN"; fi; }

# The worker's half: $HOME is the worker's, hence the single quotes.
worker() {
  local words=()
  local word
  for word in "$@"; do words+=("$(printf '%q' "$word")"); done
  # shellcheck disable=SC2016
  echo 'bash "$HOME/lfpc_jax/launch/tpu_vm/worker.sh" '"${words[*]}"
}

pod_copy() {
  copy_code || fail "the code did not reach every worker whole; $NAME is still there (pod.sh delete)"
}

copy_code() {
  local archive=$scratch/lfpc_jax.tgz sum
  # Tracked files as they are now, committed or not: what is tried out must be what runs.
  git -C "$root" ls-files -z |
    tar -C "$root" --null --files-from=- --ignore-failed-read -czf "$archive" || return 1
  sum=$(sha256sum "$archive" | cut -d' ' -f1)
  again "copying the code" copy_and_check "$archive" "$sum" || return 1
  [[ -n $SECRETS ]] || return 0
  again "copying $SECRETS" put "$SECRETS" .lfpc_secrets || return 1
  again "closing it" on all 'chmod 600 .lfpc_secrets'
}

# A copy may end early without an error on one of many workers: each checks the sum for itself.
copy_and_check() {
  local whole="echo '$2  lfpc_jax.tgz' | sha256sum --check --status"
  # What is no longer in the checkout must not stay; the packages may.
  local clear="mkdir -p lfpc_jax && find lfpc_jax -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +"
  put "$1" lfpc_jax.tgz &&
    on all "$whole && $clear && tar -C lfpc_jax -xzf lfpc_jax.tgz"
}

pod_setup() {
  set_up || fail "the workers are not ready; $NAME is still there (pod.sh delete)"
}

set_up() {
  again "installing" on all "$(worker install "$BUCKET")" &&
    again "the check that workers see each other" on all "$(worker check "$SLICES")"
}

pod_up() {
  pod_create
  on_interrupt # which pod_create has had for itself
  copy_code && set_up && return 0
  give_up "the slice came, but could not be made ready"
}

pod_run() {
  local now
  now=$(on all "$(worker status)") || fail "$NAME does not answer"
  if [[ $now == *"state: running"* ]]; then
    fail "$RUN runs already; pod.sh stop ends it"
  fi
  start_run || fail "the run was not started; see above"
}

# On all workers or on none: a few would wait for the others and be paid for it.
start_run() {
  local words=(start "$RUN" "$CONFIG" "$(run_folder)" "${ARGS[@]}")
  if on all "$(worker "${words[@]}")"; then
    say "runs; follow it with: pod.sh logs"
    return 0
  fi
  say "not every worker started; stopping the others"
  stop_run || true
  return 1
}

stop_run() { on all "$(worker stop "$GRACE_SECONDS")"; }

pod_stop() { stop_run || fail "the run did not end on every worker within $GRACE_SECONDS s"; }

pod_status() {
  say "$NAME: request $(slice_state), machine $(machine_state)"
  on all "$(worker status)"
}

pod_logs() { on "${1:-0}" "$(worker logs)"; }

pod_fetch() {
  local into=runs/$RUN leave=(--exclude='^checkpoints/.*')
  if [[ ${1:-} == all ]]; then leave=(); fi
  mkdir -p "$into"
  if [[ -n $BUCKET ]]; then
    again "fetching" call gcloud storage rsync --recursive "${leave[@]}" \
      "gs://$BUCKET/runs/$RUN" "$into" --project="$PROJECT" ||
      fail "gs://$BUCKET/runs/$RUN did not come whole; fetch again, what is here is kept"
  else
    again "fetching" tpus tpu-vm scp --recurse "$NAME:runs/$RUN" runs/ --worker=0 ||
      fail "$NAME:runs/$RUN did not come whole; $NAME is still there"
  fi
  say "results are in $into; python launch/report.py $into"
}
