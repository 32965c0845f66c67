#!/bin/sh
# Known holes in what the images install: `make audit`. Usage: audit.sh PIP_AUDIT.
# Ends with 0: none is known; 1: there are some, listed; 2: the database could not be asked.
cd "$(dirname "$0")" || exit 2
report=$(mktemp) && trap 'rm -f "$report" "$report.err"' EXIT
worst=0
for image in agent analyst control build; do
  "$1" --require-hashes --disable-pip --no-deps --progress-spinner off -r "$image.requirements.txt" \
    >"$report" 2>"$report.err"
  code=$?
  if [ "$code" = 0 ]; then
    echo "$image: no known holes"
  elif grep -q 'Fix Versions' "$report"; then
    echo "$image:"
    cat "$report"
    [ "$worst" = 2 ] || worst=1
  else
    tail -n 1 "$report.err" >&2
    echo "$image: not checked. The vulnerability database did not answer: is this machine online?" >&2
    worst=2
  fi
done
exit "$worst"
