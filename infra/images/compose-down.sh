#!/bin/sh
# compose-down.sh [OPTION...]: end the composed deployment and its agents. The options are those of
# `docker compose down`; -v forgets what Redis knows.
#
# Agents outlive their worker, for the next one to go on with. Here none comes: the workers are told
# to stop what they have, and what is left after that is looked for by its label.
set -eu

say() { echo "compose-down: $*" >&2; }

# A setting as compose.yaml gives it to the worker.
value() {
  docker compose config worker | sed -n "s/^ *$1: //p" | tr -d '"' | grep -v '^null$' | head -n 1
}
cluster=$(value AGCLUSTER_CLUSTER)
cluster=${cluster:-default}
host=$(value AGCLUSTER_HOST_ID)

workers=$(docker compose ps -q worker)
if [ -n "$workers" ]; then
  # shellcheck disable=SC2086
  docker update --restart=no $workers >/dev/null
  docker compose stop balancer
  docker compose exec -T api agcluster workers drain --retire "$host" ||
    say "the workers could not be told to stop their agents"
fi
docker compose stop
for container in $(docker compose ps -aq); do
  ended=$(docker inspect \
    -f '{{index .Config.Labels "com.docker.compose.service"}} {{.Name}} {{.State.ExitCode}}' "$container")
  case $ended in
    *" 0") ;;
    "model "*" 143") ;; # it has nothing to tidy up, and leaves the signal to the system
    *) say "$(echo "$ended" | sed 's|.* /||; s| | did not end in order: exit code |')" ;;
  esac
done
docker compose down "$@"

left=$(docker ps -aq --filter "label=agcluster.cluster=$cluster" --filter "label=agcluster.host=$host")
if [ -n "$left" ]; then
  say "removing agents that no worker has stopped"
  # shellcheck disable=SC2086
  docker rm -f $left >/dev/null
fi
say "no agent of cluster $cluster is left on host $host"
