#!/usr/bin/env bash
# A Ray cluster of several nodes on this machine, to try out what happens on a real one.
#
#   cluster/local.sh [--isolated] [NODES=2] [CPUS_PER_NODE=1]   # in the foreground; Ctrl-C ends what it started, nothing else
#
# Then, in another terminal:
#
#   export RAY_AUTH_MODE=token
#   orca-sweep submit --address http://127.0.0.1:8265 -- benchmark pocket --trials 1
#
# With --isolated (as root, on Linux) nodes share nothing, as machines on a network do: each has its own network and host
# name, and its own /tmp, /dev/shm and ~/.cache; it cannot write anywhere else. This checkout and the Python environment
# may lie in one of these: nodes see them, too, and nothing else of this machine there. This machine is 10.213.N.1 for the
# nodes, the head is 10.213.N.10; the script prints both. A node that dies does not end such a cluster. ORCA_LOCAL_FOLDER
# names a directory for the nodes' files, to fill NODE/cache before the start; by default it is temporary.
# ORCA_HEAD_CPUS=0 keeps trials off the head. ORCA_NODE_GPUS is the number of GPUs that each node declares, whether it has
# them or not; by default those that Ray finds. RAY_PORT and RAY_DASHBOARD_PORT are the ports of the head and of its job
# server (6379 and 8265): a second cluster on one machine needs others.
# Exit code 77: this machine or user cannot make such nodes; the reason is printed.
set -euo pipefail

isolated=
if [[ ${1:-} == --isolated ]]; then isolated=yes; shift; fi
nodes=${1:-2}
cpus=${2:-1}
port=${RAY_PORT:-6379}
dashboard_port=${RAY_DASHBOARD_PORT:-8265}

cannot() { echo "cannot isolate nodes: $1" >&2; exit 77; }
if [[ $isolated ]]; then
  [[ $(uname) == Linux ]] || cannot "only Linux has namespaces"
  [[ $EUID == 0 ]] || cannot "it takes root"
  for tool in ip unshare; do command -v "$tool" >/dev/null || cannot "the command $tool is missing (iproute2, util-linux)"; done
  unshare --net --mount --uts true 2>/dev/null || cannot "this container may not make namespaces (CAP_SYS_ADMIN)"
fi

# Only holders of the token (~/.ray/auth_token) may submit or run anything.
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null

# Each node has a directory of its own, as on different machines. In a shared one, each node that unpacks the files of a
# job deletes those that another node has unpacked, and with them the working directory of the running job.
# The path is short because it contains Unix sockets.
folder=${ORCA_LOCAL_FOLDER:-$(mktemp -d /tmp/orca-local-XXXXXX)}
# Ray puts the path of its Python into lines of bash as it is: where that needs quotes, Ray runs through a link.
bin=$(dirname "$(command -v ray)")
link=
ray=(ray)
if [[ $(printf %q "$bin") != "$bin" ]]; then
  link=$(mktemp -d /tmp/orca-local-XXXXXX)
  ln -s "$(dirname "$bin")" "$link/env"
  ray=("$link/env/bin/python" "$link/env/bin/ray")
fi
bridge=orca$$ # interfaces of several clusters on one machine have different names and networks
network=10.213.$(($$ % 250 + 1))
started=()
end() {
  trap - EXIT
  trap '' INT TERM # a second Ctrl-C must not end the cleaning
  # The job server first: it takes the end of a node for the end of a job's log, and 'ray job submit' would exit with 0.
  pkill -KILL -P "${started[0]:-0}" -f dashboard/dashboard.py || true
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  if [[ $isolated ]]; then
    for ((node = 0; node < nodes; node++)); do
      # What a killed node has left ends with its namespace.
      ip netns pids "$bridge-$node" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
      ip netns delete "$bridge-$node" 2>/dev/null || true # and with it its end of the cable, and so the cable
    done
    ip link delete "$bridge" 2>/dev/null || true
  fi
  rm -rf "$link"
  [[ ${ORCA_LOCAL_FOLDER:-} ]] || rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A bridge is the switch that the nodes' cables are plugged into; this machine has an address on it.
connect() {
  ip link add "$bridge" type bridge || cannot "this kernel or container makes no bridge"
  ip address add "$network.1/24" dev "$bridge"
  ip link set "$bridge" up
  for ((node = 0; node < nodes; node++)); do
    ip netns add "$bridge-$node" || cannot "no network namespace can be added"
    ip link add "o$$-$node" type veth peer name eth0 netns "$bridge-$node"
    ip link set "o$$-$node" master "$bridge" up
    ip -n "$bridge-$node" address add "$network.$((10 + node))/24" dev eth0
    ip -n "$bridge-$node" link set eth0 up
    ip -n "$bridge-$node" link set lo up
  done
}

# Prints the directories without which a node cannot run Ray and this package: checkout, home, Python and its packages.
needed() {
  local python
  python=$bin/python3
  [[ -x $python ]] || python=python3
  "$python" - "$(dirname "${BASH_SOURCE[0]}")/.." "$HOME" "$link" <<'END'
import os, sys
given = [path for path in (*sys.argv[1:], sys.prefix, sys.base_prefix, *sys.path) if os.path.isdir(path)]
found = {make(path) for path in given for make in (os.path.abspath, os.path.realpath)}
print(*sorted(found, key=lambda path: f"{path}/"), sep="\n")  # a directory comes right before those in it
END
}

# Runs a command on a node: $1 is its number.
on_node() {
  local own="$folder/$1"
  mkdir -p "$own/tmp" "$own/cache" "$own/shm" "$HOME/.cache"
  ip netns exec "$bridge-$1" unshare --mount --uts --propagation private bash -euc '
    # Puts the directory $1 in the place of $2, with the needed directories that lie in $2, which are read only.
    replace() {
      local path last=/
      while read -r path; do
        [[ $path == "$2"/* && $path != "$last"/* ]] || continue
        last=$path
        mkdir -p "$1${path#"$2"}"
        mount --rbind "$path" "$1${path#"$2"}"
        mount -o remount,bind,ro "$1${path#"$2"}"
      done <<<"$needed"
      mount --rbind "$1" "$2"
    }
    hostname "$1"
    own=$2 needed=$3
    mount -t tmpfs tmpfs "$own/shm"
    replace "$own/cache" "$HOME/.cache"
    replace "$own/shm" /dev/shm
    replace "$own/tmp" /tmp # the last one, because $own may lie there
    mount -o remount,bind,ro /
    unset ORCA_RAY_HOME
    shift 3
    cd / && exec "$@"
  ' bash "orca-node-$1" "$own" "$needed" "${@:2}"
}

# Ports of agents are chosen by the system, so that several clusters can run on one machine.
start() {
  local number=$1 command=() temporary="$folder/$1" own_cpus=$cpus
  if [[ $number == 0 ]]; then own_cpus=${ORCA_HEAD_CPUS:-$cpus}; fi
  if [[ $isolated ]]; then command=(on_node "$number") temporary=/tmp/ray; fi
  "${command[@]}" "${ray[@]}" start --block --temp-dir="$temporary" --num-cpus="$own_cpus" --object-store-memory=200000000 \
    --dashboard-agent-listen-port=0 ${ORCA_NODE_GPUS:+--num-gpus="$ORCA_NODE_GPUS"} "${@:2}" &
  started+=($!)
}

head=127.0.0.1
address() { echo 127.0.0.1; }
if [[ $isolated ]]; then
  head=$network.10
  address() { echo "$network.$((10 + $1))"; }
  needed=$(needed)
  connect
fi

start 0 --head --node-ip-address="$head" --port="$port" --ray-client-server-port=$((port + 1)) \
  --dashboard-host="$head" --dashboard-port="$dashboard_port"
until RAY_ADDRESS="$head:$port" ray status >/dev/null 2>&1; do
  kill -0 "${started[0]}" 2>/dev/null || { echo "the head did not start" >&2; exit 1; }
  sleep 1
done
for ((node = 1; node < nodes; node++)); do start "$node" --address="$head:$port" --node-ip-address="$(address "$node")"; done
# The number of nodes that have joined: 'ray status' has a line for each.
joined() { RAY_ADDRESS="$head:$port" ray status 2>/dev/null | grep -c '^ *1 node_' || true; }
until (( $(joined) >= nodes )); do
  for pid in "${started[@]}"; do
    kill -0 "$pid" 2>/dev/null || { echo "a node ended before all $nodes had joined" >&2; exit 1; }
  done
  sleep 1
done
# The job server answers some seconds after the head; a job that is submitted before fails with a long traceback.
until ray job list --address="http://$head:$dashboard_port" >/dev/null 2>&1; do
  kill -0 "${started[0]}" 2>/dev/null || { echo "the head ended" >&2; exit 1; }
  sleep 1
done

echo "cluster of $nodes nodes at $head:$port, jobs at http://$head:$dashboard_port; Ctrl-C ends it"
if [[ $isolated ]]; then
  echo "this machine is $network.1 for the nodes; their files are in $folder"
  wait "${started[0]}" || true
  echo "the head ended" >&2
else
  wait -n || true
  echo "a node ended, and with it the cluster: better than half a one" >&2
fi
exit 1
