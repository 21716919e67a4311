#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, to try out what happens on a real one.
#
#   cluster/local.sh [NODES=2] [CPUS_PER_NODE=1]      # stays in the foreground; Ctrl-C ends what it started, nothing else
#
# Then, in another terminal:
#
#   export RAY_AUTH_MODE=token
#   ray job submit --address http://127.0.0.1:8265 --working-dir . -- orca-sweep benchmark pocket --trials 1
set -euo pipefail

nodes=${1:-2}
cpus=${2:-1}
port=${RAY_PORT:-6379}
dashboard_port=${RAY_DASHBOARD_PORT:-8265}

# Only holders of the token (~/.ray/auth_token) may submit or run anything.
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null

started=()
end() {
  trap - EXIT INT TERM
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

ray start --head --block --node-ip-address=127.0.0.1 --port="$port" --num-cpus="$cpus" \
  --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port" --object-store-memory=200000000 &
started+=($!)

until RAY_ADDRESS="127.0.0.1:$port" ray status >/dev/null 2>&1; do
  kill -0 "${started[0]}" 2>/dev/null || { echo "the head did not start" >&2; exit 1; }
  sleep 1
done

for ((node = 1; node < nodes; node++)); do
  ray start --block --address="127.0.0.1:$port" --num-cpus="$cpus" --object-store-memory=200000000 &
  started+=($!)
done

echo "cluster of $nodes nodes at 127.0.0.1:$port, jobs at http://127.0.0.1:$dashboard_port; Ctrl-C ends it"
wait -n # a node that dies ends the cluster: better than half a one
