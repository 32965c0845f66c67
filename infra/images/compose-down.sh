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
  ended=$(docker inspect -f '{{.Name}} {{.State.ExitCode}}' "$container" | cut -c 2-)
  case ${ended##* } in
    0 | 143) ;; # 143: ended by the signal itself
    *) say "${ended% *} did not end in order: exit code ${ended##* }" ;;
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
