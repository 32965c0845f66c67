#!/bin/sh
# make-env.sh FILE: a .env for compose.yaml with fresh secrets, readable by its owner only. Never
# overwrites one.
set -eu
file=$1
here=$(dirname "$0")
if [ -e "$file" ]; then
  echo "$file exists; it is left as it is" >&2
  exit 1
fi
secret() { od -An -tx1 -N32 /dev/urandom | tr -d ' \n'; }
group() { stat -c %g "$1" 2>/dev/null || stat -f %g "$1" 2>/dev/null || echo 0; }
umask 077
{
  echo "AGCLUSTER_SECRET=$(secret)"
  echo "REDIS_API_PASSWORD=$(secret)"
  echo "REDIS_WORKER_PASSWORD=$(secret)"
  echo "REDIS_OPS_PASSWORD=$(secret)"
  echo "DOCKER_GID=$(group /var/run/docker.sock)"
  echo
  # All settings with their defaults. A release has the file beside this script.
  cat "$here/../../.env.example" 2>/dev/null || cat "$here/env.example" 2>/dev/null || true
} >"$file"
echo "wrote $file with fresh secrets"
