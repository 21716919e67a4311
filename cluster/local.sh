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

# Each node has a directory of its own, as on different machines. In a shared one, each node that unpacks the files of a
# job deletes those that another node has unpacked, and with them the working directory of the running job.
# The path is short because it contains Unix sockets.
folder=$(mktemp -d /tmp/orca-local-XXXXXX)
started=()
end() {
  trap - EXIT INT TERM
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Ports of agents are chosen by the system, so that several clusters can run on one machine.
start() {
  ray start --block --temp-dir="$folder/$1" --num-cpus="$cpus" --object-store-memory=200000000 \
    --dashboard-agent-listen-port=0 "${@:2}" &
  started+=($!)
}

start 0 --head --node-ip-address=127.0.0.1 --port="$port" --ray-client-server-port=$((port + 1)) \
  --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port"
until RAY_ADDRESS="127.0.0.1:$port" ray status >/dev/null 2>&1; do
  kill -0 "${started[0]}" 2>/dev/null || { echo "the head did not start" >&2; exit 1; }
  sleep 1
done
for ((node = 1; node < nodes; node++)); do start "$node" --address="127.0.0.1:$port" --node-ip-address=127.0.0.1; done

echo "cluster of $nodes nodes at 127.0.0.1:$port, jobs at http://127.0.0.1:$dashboard_port; Ctrl-C ends it"
wait -n # a node that dies ends the cluster: better than half a one
