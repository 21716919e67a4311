echo "srun $*" >>"$CALLS"
while [[ $1 == --* ]]; do [[ $1 == --ntasks=* ]] && tasks=${1#*=}; shift; done
pids=()
trap 'kill "${pids[@]}"' TERM # as the real one, it passes the signal on, and waits
for ((task = 0; task < tasks; task++)); do "$@" & pids+=($!); done
for pid in "${pids[@]}"; do while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done; done
