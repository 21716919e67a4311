if [[ "$1 $2" == "show hostnames" ]]; then printf '%s\n' node1 node2; else echo "scontrol $*" >>"$CALLS"; fi
