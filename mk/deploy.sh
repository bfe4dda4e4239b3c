# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
# deploy or undeploy, with what `make` has exported: INVENTORY SIMULATE LISTEN PORT EXTRA. Runs in the repository root.
set -eu
verb=$1
local_inventory=inventory/local.yml

fail() {
    echo "make $verb: $*" >&2
    exit 1
}

[ -e "$INVENTORY" ] || fail "there is no inventory $INVENTORY"
[ -z "$SIMULATE" ] || [ "$INVENTORY" = "$local_inventory" ] || fail "SIMULATE is for this machine alone, not for $INVENTORY"
[ -z "$PORT" ] || [ -z "$LISTEN" ] || fail "give PORT or LISTEN (host:port), not both"
if [ -n "$PORT" ]; then LISTEN=0.0.0.0:$PORT; fi

# The simulated driver of this machine. Its place must be readable by the service's own user.
if [ "$(id -u)" = 0 ]; then simulator=/var/lib/esnode/nvmlsim; else simulator=$PWD/build/nvmlsim-deployed; fi

undo="make undeploy"
[ "$INVENTORY" = "$local_inventory" ] || undo="$undo INVENTORY=$INVENTORY"

venv=$(tools/py tools/env.py deploy)
export ANSIBLE_CONFIG="$PWD/ansible.cfg" ANSIBLE_NOCOWS=1
set -- -i "$INVENTORY" -e "esnode_agent_cache_dir=$PWD/build/releases"
if [ "$INVENTORY" = "$local_inventory" ]; then
    # Nothing of this outlives the checkout, and nothing of it comes to lie in the user's home.
    export ANSIBLE_HOME="$PWD/build/ansible" ANSIBLE_REMOTE_TMP="$PWD/build/ansible/remote"
    set -- "$@" -e "esnode_tls_ca_dir=$PWD/build/ca"
fi

case $verb in
deploy)
    [ -z "$LISTEN" ] || set -- "$@" -e "esnode_agent_listen_address=$LISTEN"
    if [ -n "$SIMULATE" ]; then
        echo "-- building the NVML simulator"
        make --no-print-directory --silent -C tests/nvmlsim
        state=$simulator/$(echo "$SIMULATE" | tr -c 'A-Za-z0-9\n' _).state
        mkdir -p "$simulator"
        # A rename, since a running agent has the old library mapped.
        cp build/nvmlsim/libnvidia-ml.so.1 "$simulator/.new" && mv "$simulator/.new" "$simulator/libnvidia-ml.so.1"
        # A state that is there stays: the running agent has it open.
        if [ ! -e "$state" ]; then
            rm -f "$simulator"/*.state
            build/nvmlsim/nvmlsim init "$state" "$SIMULATE"
            chmod 0666 "$state"
        fi
        set -- "$@" -e "{\"esnode_agent_environment\": {\"LD_LIBRARY_PATH\": \"$simulator\", \"NVMLSIM_STATE\": \"$state\"}}"
    fi
    # Taking simulated GPUs away is no loss.
    if [ -d "$simulator" ]; then set -- "$@" -e '{"esnode_agent_allow_fewer_gpus": true}'; fi
    rm -f build/deployed.txt
    # EXTRA is a list of words on purpose.
    # shellcheck disable=SC2086
    "$venv/bin/ansible-playbook" "$@" -e "esnode_summary_file=$PWD/build/deployed.txt" -e "{\"esnode_undo\": \"$undo\"}" \
        $EXTRA playbooks/esnode-deploy.yml
    if [ "$INVENTORY" = "$local_inventory" ] && [ -z "$SIMULATE" ]; then rm -rf "$simulator"; fi
    echo
    cat build/deployed.txt
    [ -z "$SIMULATE" ] || echo "Simulated GPUs: build/nvmlsim/nvmlsim $state show; make deploy without SIMULATE takes them away"
    ;;
undeploy)
    # shellcheck disable=SC2086
    "$venv/bin/ansible-playbook" "$@" $EXTRA playbooks/esnode-remove.yml
    if [ "$INVENTORY" = "$local_inventory" ]; then rm -rf "$simulator" build/ca build/deployed.txt; fi
    ;;
esac
