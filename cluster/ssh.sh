#!/usr/bin/env bash
# A Ray cluster of this machine and others that you reach by SSH, for as long as this script runs.
#
#   cluster/ssh.sh [--dry-run] [--head-cpus N] HOST... [-- COMMAND...]
#   cluster/ssh.sh gpu1 user@gpu2                                          # until Ctrl-C
#   cluster/ssh.sh gpu1 gpu2 -- orca-sweep benchmark pocket --budget full  # until the sweep ends
#
# Each host needs a key that logs in without a password, and orca-ray in the directory of programs that `ray` has here,
# or in ORCA_REMOTE_BIN. The machines reach each other at all ports above 1023, and share no disk. ORCA_HEAD_IP: the
# address of this machine, if it has several. --head-cpus 0: no trial runs here.
#
# The token goes through standard input, because other users of a machine see the arguments of its processes. A host
# ends its part of the cluster when that input is closed: at the end of this script, or when the connection is lost.
set -euo pipefail
set -m # Ctrl-C reaches this script alone, which passes it on

usage() { sed -n '4,6s/^# *//p' "$0" >&2; exit 2; }

dry_run=
hosts=()
head_options=()
while (($#)); do
  case $1 in
  --dry-run) dry_run=yes ;;
  --head-cpus) head_options=("--num-cpus=${2:?--head-cpus needs a number}"); shift ;;
  --) shift; break ;;
  -*) echo "unknown option $1" >&2; usage ;;
  *) hosts+=("$1") ;;
  esac
  shift
done
((${#hosts[@]})) || usage

port=${RAY_PORT:-6379}
dashboard_port=${RAY_DASHBOARD_PORT:-8265}
bin=${ORCA_REMOTE_BIN:-$(dirname "$(command -v ray)")}
ip=${ORCA_HEAD_IP:-$(python -c 'from ray.util import get_node_ip_address; print(get_node_ip_address())')}
head=(--head --node-ip-address="$ip" --port="$port" --ray-client-server-port=$((port + 1))
  --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port" "${head_options[@]}")
# BatchMode: fail, and do not ask for a password. ServerAlive: notice within a minute that a host is gone.
connect=(ssh -T -o BatchMode=yes -o ServerAliveInterval=20 -o ServerAliveCountMax=3)

# Runs on each machine. The path of the folder $1 is short, because it contains Unix sockets; it stays private, while Ray
# lets everybody write to its own folder. Ray puts the path of its Python into lines of bash as it is: where that needs
# quotes, Ray runs through a link.
start_ray() {
  local bin ray=(ray)
  bin=$(dirname "$(command -v ray)")
  if [[ $(printf %q "$bin") != "$bin" ]]; then
    ln -s "$(dirname "$bin")" "$1/env"
    ray=("$1/env/bin/python" "$1/env/bin/ray")
  fi
  exec "${ray[@]}" start --block --temp-dir="$1/ray" --dashboard-agent-listen-port=0 --object-store-memory=200000000 "${@:2}"
}

# Runs on each host.
# shellcheck disable=SC2317
join_cluster() {
  local folder ray
  PATH=$1:$PATH
  folder=$(mktemp -d /tmp/orca-ssh-XXXXXX)
  exec 3<&0 # a background process would read /dev/null
  start_ray "$folder" --address="$2" </dev/null &
  ray=$!
  { cat >/dev/null; kill "$ray" 2>/dev/null; } <&3 &
  wait "$ray"
  rm -rf "$folder"
  kill $! 2>/dev/null
}

if [[ -n $dry_run ]]; then
  echo "here: ray start --block ${head[*]}"
  for host in "${hosts[@]}"; do echo "$host: ${connect[*]} $host bash -s"; done
  declare -f start_ray join_cluster
  echo "join_cluster $bin $ip:$port"
  exit
fi

export RAY_AUTH_MODE=token
if [[ -z ${RAY_AUTH_TOKEN:-} ]]; then
  ray get-auth-token --generate >/dev/null
  RAY_AUTH_TOKEN=$(ray get-auth-token)
fi
export RAY_AUTH_TOKEN

folder=$(mktemp -d /tmp/orca-ssh-XXXXXX)
inputs=()
started=()
command=
end() {
  trap - EXIT INT TERM
  for input in "${inputs[@]}"; do exec {input}>&-; done
  for pid in "${started[@]:1}"; do wait "$pid" 2>/dev/null || true; done
  kill "${started[@]}" 2>/dev/null || true
  wait
  rm -rf "$folder"
}
interrupt() { if [[ -n $command ]]; then kill -INT "$command" 2>/dev/null || true; else exit "$1"; fi; }
trap end EXIT
trap 'interrupt 130' INT
trap 'interrupt 143' TERM
trap : PIPE

export RAY_ADDRESS=$ip:$port
nodes() { ray status 2>/dev/null | sed '/^Pending/,$d' | grep -c '^ 1 node_' || true; }
start_ray "$folder" "${head[@]}" &
started+=($!)
until (($(nodes) > 0)); do
  kill -0 "${started[0]}" 2>/dev/null || { echo "the head did not start" >&2; exit 1; }
  sleep 1
done

for host in "${hosts[@]}"; do
  mkfifo "$folder/input"
  "${connect[@]}" "$host" bash -s <"$folder/input" &
  started+=($!)
  exec {input}>"$folder/input"
  inputs+=("$input")
  rm "$folder/input"
  {
    declare -f start_ray join_cluster
    printf 'export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=%q\njoin_cluster %q %q\n' "$RAY_AUTH_TOKEN" "$bin" "$RAY_ADDRESS"
  } 1>&"$input" 2>/dev/null || true # if the connection has already failed, the loop below tells
done
for ((waited = 0; $(nodes) <= ${#hosts[@]}; waited++)); do
  for number in "${!hosts[@]}"; do
    kill -0 "${started[number + 1]}" 2>/dev/null || { echo "${hosts[number]} did not join" >&2; exit 1; }
  done
  ((waited < 120)) || { echo "not all hosts have joined: do they reach $RAY_ADDRESS?" >&2; exit 1; }
  sleep 1
done
echo "cluster of $((${#hosts[@]} + 1)) nodes at $RAY_ADDRESS, jobs at http://127.0.0.1:$dashboard_port"

if (($#)); then
  "$@" &
  command=$!
  code=0
  while kill -0 "$command" 2>/dev/null; do # a signal ends `wait` early
    code=0
    wait "$command" || code=$?
  done
  exit "$code"
fi
echo "Ctrl-C ends it"
wait -n # a node that ends, ends the cluster: better than half a one
