#!/usr/bin/env bash
# supervise.sh STATE COMMAND...: runs it, with its process id in STATE/pid and its end in STATE/exit.
set -euo pipefail
state=$1
shift
child=""
# A host that is taken away sends SIGTERM to all. The run then saves and ends with 0, which must not
# be taken for a run that has finished.
trap 'touch "$state/stopped"; kill -TERM "$child" 2>/dev/null || true' TERM
"$@" &
child=$!
echo "$child" >"$state/pid.new"
mv "$state/pid.new" "$state/pid"
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do # the wait was cut short by a signal
  code=0
  wait "$child" || code=$?
done
if [[ $code == 0 && -f $state/stopped ]]; then code=stopped; fi
echo "$code" >"$state/exit.new"
mv "$state/exit.new" "$state/exit"
echo "=== $(date -u +%FT%TZ) ended with exit code $code"
