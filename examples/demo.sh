#!/usr/bin/env bash
# Starts a server on a free port with the sandbox engine, runs one real task of two steps through the API, shows what
# came out, and leaves nothing behind. Needs `tes-server` and `tes` on the PATH.
set -euo pipefail

work=$(mktemp -d "${TMPDIR:-/tmp}/tes-demo.XXXXXX")
server=
finish() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap finish EXIT

if ! tes-server doctor --engine sandbox --allow-host --data "$work/data" >"$work/doctor.log" 2>&1; then
  echo "The sandbox does not work on this machine:" >&2
  grep '^no ' "$work/doctor.log" >&2 || cat "$work/doctor.log" >&2
  exit 1
fi

mkdir "$work/files"
printf 'ACGTACGTGGCCTTAA\nTTAACCGGACGTACGT\nGGGGCCCCAAAATTTT\n' >"$work/files/reads.txt"
tes-server serve --port 0 --engine sandbox --allow-host --root "$work/files" --data "$work/data" >"$work/serve.out" 2>"$work/serve.log" &
server=$!
for _ in $(seq 100); do
  TES_URL=$(sed -n -E 's/.*listens on (http[^ ]*).*/\1/p' "$work/serve.out")
  [ -n "$TES_URL" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$work/serve.out" "$work/serve.log" >&2; exit 1; }
  sleep 0.1
done
export TES_URL
echo "server   $TES_URL (tes-server serve, embedded store, sandbox engine)"

cat >"$work/task.json" <<JSON
{
  "name": "demo: count bases",
  "inputs": [{"url": "file://$work/files/reads.txt", "path": "/work/reads.txt"}],
  "outputs": [{"url": "file://$work/files/counts.txt", "path": "/work/counts.txt"}],
  "executors": [
    {"image": "host", "command": ["/usr/bin/fold", "-w", "1", "/work/reads.txt"], "stdout": "/work/bases.txt"},
    {"image": "host", "command": ["/bin/sh", "-c", "sort /work/bases.txt | uniq -c"], "stdout": "/work/counts.txt"}
  ],
  "resources": {"cpu_cores": 1, "ram_gb": 0.5}
}
JSON
id=$(tes create "$work/task.json" | sed -n -E 's/.*"id": *"([^"]*)".*/\1/p')
echo "task     $id (two executors, one input, one output)"
tes wait "$id" >/dev/null
echo "state    $(tes get "$id" | sed -n -E 's/.*"state": *"([^"]*)".*/\1/p' | head -n 1)"
echo "output   counts.txt:"
sed 's/^/         /' "$work/files/counts.txt"
