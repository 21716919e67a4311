echo "$@" >>"$CALLS"
while [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done
unset RAY_AUTH_TOKEN RAY_AUTH_MODE RAY_ADDRESS # as a login on another machine
exec "${@:2}"
