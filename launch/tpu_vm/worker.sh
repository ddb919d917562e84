#!/usr/bin/env bash
# On a TPU worker, called through ssh by pod.sh. Keeps the run's process id, exit code and log in
# ~/lfpc_run, so that any later call knows how it stands.
set -euo pipefail
code=$HOME/lfpc_jax
state=$HOME/lfpc_run
mkdir -p "$state"

fail() {
  echo "error: $(hostname): $*" >&2
  exit 1
}

alive() { [[ -f $state/pid && ! -f $state/exit ]] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }

find_python() {
  local name
  for name in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
    if command -v "$name" >/dev/null &&
      "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return 0
    fi
  done
  return 1
}

install() { # BUCKET
  local python
  if ! python=$(find_python); then
    sudo apt-get -qq update || fail "apt does not answer"
    sudo apt-get -qq install -y python3.11 python3.11-venv ||
      fail "there is no Python 3.11, and apt has none; choose a newer RUNTIME"
    python=python3.11
  fi
  cd "$code"
  if [[ ! -x .venv/bin/python ]]; then "$python" -m venv .venv; fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tpu]'
  if [[ -n $1 ]]; then mount_bucket "$1"; fi
  echo "$(hostname): ready"
}

mount_bucket() {
  if mountpoint -q "$HOME/bucket"; then return 0; fi
  command -v gcsfuse >/dev/null || sudo apt-get -qq install -y gcsfuse ||
    fail "gcsfuse is not on this image; install it on the workers (its documentation says how)"
  mkdir -p "$HOME/bucket"
  # Workers must see each other's files at once; checkpoints are folders that are renamed when whole.
  gcsfuse --implicit-dirs --rename-dir-limit 1000000 --metadata-cache-ttl-secs 0 "$1" "$HOME/bucket"
}

check() { # SLICES
  cd "$code"
  timeout 300 .venv/bin/python launch/tpu_vm/check.py "$1" || fail "the workers do not see each other"
}

start() { # RUN CONFIG FOLDER ARGS...
  local run=$1 config=$2 folder=$3
  shift 3
  if alive; then fail "$run runs already, as process $(cat "$state/pid"); pod.sh stop ends it"; fi
  rm -f "$state/exit" "$state/pid" "$state/stopped"
  mkdir -p "$HOME/$folder"
  cd "$code"
  # Exported to the run alone, and never printed.
  if [[ -f $HOME/.lfpc_secrets ]]; then
    set -a
    # shellcheck source=/dev/null
    source "$HOME/.lfpc_secrets"
    set +a
  fi
  echo "=== $(date -u +%FT%TZ) $run starts" >>"$state/log"
  nohup setsid bash "$code/launch/tpu_vm/supervise.sh" "$state" \
    .venv/bin/python -u launch/train.py --config "$config" --run "$HOME/$folder" "$@" \
    >>"$state/log" 2>&1 </dev/null &
  local try
  for ((try = 0; try < 50; try++)); do
    if [[ -f $state/pid ]]; then break; fi
    sleep 0.1
  done
  [[ -f $state/pid ]] || fail "$run did not start: $(tail -n 3 "$state/log")"
  echo "$(hostname): started $run"
}

stop() { # SECONDS
  local waited
  if ! alive; then return 0; fi
  touch "$state/stopped"
  kill -TERM "$(cat "$state/pid")" 2>/dev/null || true
  for ((waited = 0; waited < $1 * 5; waited++)); do
    if ! alive; then return 0; fi
    sleep 0.2
  done
  kill -KILL "$(cat "$state/pid")" 2>/dev/null || true
  fail "the run did not end within $1 s and was killed"
}

status() {
  if alive; then
    echo "$(hostname) state: running"
  elif [[ -f $state/exit ]]; then
    echo "$(hostname) state: ended $(cat "$state/exit")"
  elif [[ -f $state/pid ]]; then
    echo "$(hostname) state: ended 137" # it and its supervisor were killed
  else
    echo "$(hostname) state: none"
  fi
}

logs() { tail -n 200 -F "$state/log"; }
tail_() { tail -n 40 "$state/log"; }

command=${1:?what to do}
shift
case $command in
  install | check | start | stop | status | logs) "$command" "$@" ;;
  tail) tail_ ;;
  *) fail "unknown command $command" ;;
esac
