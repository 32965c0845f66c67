#!/bin/sh
# start-redis.sh         redis-server with redis.conf, and users.acl with passwords filled in
# start-redis.sh ping    whether it answers
# start-redis.sh cli ... redis-cli as the user `ops`, who only looks
#
# Redis cannot read a password from its environment. Each `>${NAME}` of users.acl becomes the hash of
# $NAME, so no password is on disk; a user whose variable is empty is left out.
#
# The user `default` is off, so nobody can log in as it, but it has every right: Redis replays its
# append-only file as this user, and skips each transaction and script that it has no right to.
set -eu
here=/etc/agcluster
made=/tmp/users.acl

if [ "${1:-}" = ping ]; then
  export REDISCLI_AUTH="$REDIS_API_PASSWORD"
  [ "$(redis-cli --user api --no-auth-warning ping)" = PONG ]
  exit
fi

if [ "${1:-}" = cli ]; then
  if [ -z "${REDIS_OPS_PASSWORD:-}" ]; then
    echo "REDIS_OPS_PASSWORD is not set, so there is no user ops: see .env.example" >&2
    exit 1
  fi
  shift
  export REDISCLI_AUTH="$REDIS_OPS_PASSWORD"
  exec redis-cli --user ops --no-auth-warning "$@"
fi

umask 077
: >"$made"
while IFS= read -r line || [ -n "$line" ]; do
  case $line in
    *'>${'*'}'*)
      name=${line#*'>${'}
      name=${name%%\}*}
      eval "password=\${$name:-}"
      [ -n "$password" ] || continue
      hash=$(printf %s "$password" | sha256sum | cut -d' ' -f1)
      line="${line%%'>${'*}#$hash${line#*"{$name}"}"
      ;;
  esac
  printf '%s\n' "$line" >>"$made"
done <"$here/users.acl"

exec redis-server "$here/redis.conf" --dir /data --aclfile "$made" "$@"
