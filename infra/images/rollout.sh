#!/bin/sh
# rollout.sh: bring what .env, compose.yaml and the images say now to a running deployment.
#
# Only services that changed are restarted, one after the other. Of API and worker a new container is
# there before an old one leaves, so the address keeps answering and conversations are handed over.
# Which deployment: the variables of `docker compose` (COMPOSE_PROJECT_NAME, COMPOSE_FILE, ...).
set -eu

say() { echo "rollout: $*" >&2; }

# The containers of a service that are not what its settings and its image would make today.
outdated() {
  hash=$(docker compose config --hash "$1" | cut -d' ' -f2)
  for container in $(docker compose ps -q "$1"); do
    made=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.config-hash"}}' "$container")
    image=$(docker inspect -f '{{.Config.Image}}' "$container")
    [ "$made" = "$hash" ] &&
      [ "$(docker inspect -f '{{.Image}}' "$container")" = "$(docker image inspect -f '{{.Id}}' "$image")" ] ||
      echo "$container"
  done
}

# How many replicas the balancer would send a request to.
in_use() {
  docker compose exec -T balancer bash -c \
    'exec 3<>/dev/tcp/127.0.0.1/8001 && printf "GET / HTTP/1.0\r\n\r\n" >&3 && tail -n 1 <&3'
}

# Whether a worker of this host that began after then (ms) takes work. Asked of an API, or of a worker
# where no API runs: this rollout may be what mends it.
has_worker_since() {
  for service in api worker; do
    docker compose exec -T "$service" sh -c 'agcluster workers list --json | python -c "$0" "$@"' '
import json, sys
host, since = sys.argv[1], int(sys.argv[2])
found = [w for w in json.load(sys.stdin) if w["host"] == host and w["started_ms"] >= since]
sys.exit(not any(w["state"] == "ready" for w in found))' "$host" "$1" 2>/dev/null && return
  done
  return 1
}

until_true() { # WHAT COMMAND...
  what=$1 tries=0
  shift
  until "$@"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 120 ]; then
      say "$what; the old one stays"
      exit 1
    fi
    sleep 0.5
  done
}

are_in_use() { [ "$(in_use)" -ge "$1" ]; }

leave() {
  docker stop "$1" >/dev/null # within the grace that compose.yaml gives it
  code=$(docker inspect -f '{{.State.ExitCode}}' "$1")
  [ "$code" = 0 ] || say "it did not leave in order: exit code $code"
  docker rm "$1" >/dev/null
}

# One more, then one less, for each that is outdated.
replace() {
  for old in $(outdated "$1"); do
    more=$(($(docker compose ps -q "$1" | wc -l) + 1))
    say "$1: a new one for $(docker inspect -f '{{.Name}}' "$old" | cut -c 2-)"
    since=$(date +%s)000
    docker compose up -d --no-build --no-recreate --wait --scale "$1=$more" "$1"
    case $1 in
      api) until_true "the balancer does not find the new replica ready" are_in_use "$more" ;;
      worker) until_true "the new worker does not take work" has_worker_since "$since" ;;
    esac
    leave "$old"
  done
}

if [ -z "$(docker compose ps -q api worker)" ]; then
  say "nothing runs here: docker compose up -d"
  exit 1
fi
host=$(docker compose config worker | sed -n 's/^ *AGCLUSTER_HOST_ID: //p' | tr -d '"' | head -n 1)
docker compose run --rm --no-deps -T settings # says what it refuses
# In place, for of these there is one each. One by one and with what they depend on: Compose 2.26
# recreates all that depend on a recreated service of the same `up`, and --no-deps is a change to it.
for service in redis engine-proxy gateway; do
  docker compose up -d --no-build --wait "$service"
done
# Workers first: an old worker would end a turn whose request it cannot read, or not do what it asks
# for; an old replica asks for nothing new, and skips what it does not know of an answer.
replace worker
replace api
docker compose up -d --no-build --wait balancer
docker compose up -d --no-build --no-recreate --wait # what is new
