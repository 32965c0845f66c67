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

until_in_use() {
  tries=0
  while [ "$(in_use)" -lt "$1" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 120 ]; then
      say "the balancer does not find the new replica ready; the old one stays"
      exit 1
    fi
    sleep 0.5
  done
}

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
    docker compose up -d --no-build --no-recreate --wait --scale "$1=$more" "$1"
    if [ "$1" = api ]; then until_in_use "$more"; fi
    leave "$old"
  done
}

if [ -z "$(docker compose ps -q api worker)" ]; then
  say "nothing runs here: docker compose up -d"
  exit 1
fi
docker compose run --rm --no-deps -T settings # says what it refuses
# In place, for of these there is one each. One by one and with what they depend on: Compose 2.26
# recreates all that depend on a recreated service of the same `up`, and --no-deps is a change to it.
for service in redis engine-proxy gateway; do
  docker compose up -d --no-build --wait "$service"
done
replace worker
replace api
docker compose up -d --no-build --wait balancer
docker compose up -d --no-build --no-recreate --wait # what is new
