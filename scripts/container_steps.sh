#!/bin/sh
# The RUN steps of the Dockerfile that install, in a virtual environment of their own, on what .dockerignore lets through; then
# its HEALTHCHECK against a server started as its ENTRYPOINT says, on a free port. For machines without docker.
#
#     sh scripts/container_steps.sh [FOLDER]
#
# TORCH_INDEX as for the Dockerfile; empty: whatever index pip is set up with.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$(mktemp -d)}
mkdir -p "$folder/context"
cd "$root"
cp -R $(sed -n 's/^!//p' .dockerignore) "$folder/context"
"${PYTHON:-python3}" -m venv "$folder/venv"
PATH=$folder/venv/bin:$PATH
cd "$folder/context"
sed -n 's/^RUN \(pip .*\)/\1/p' "$root/Dockerfile" | while read -r step; do
    [ -n "${TORCH_INDEX-}" ] || step=$(echo "$step" | sed 's/--index-url "$TORCH_INDEX" --extra-index-url [^ ]*//')
    echo "+ $step"
    eval "$step" >>"$folder/pip.log" 2>&1
done
cd "$folder"
export HF_HOME="$folder/models"
port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
start=$(sed -n 's/^ENTRYPOINT \[\(.*\)\]/\1/p' "$root/Dockerfile" | tr -d '",' | sed "s/port=8000/port=$port/")
echo "+ $start"
$start >"$folder/serve.log" 2>&1 &
server=$!
trap 'kill $server' EXIT
for second in $(seq 60); do
    if python -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:$port/health', timeout=4).read().decode())" 2>/dev/null; then
        python - "$port" <<'ASK'
import json, sys, urllib.request as u
request = u.Request(f"http://127.0.0.1:{sys.argv[1]}/v1/completions", b'{"prompt": "47+85=", "max_tokens": 32}', {"Content-Type": "application/json"})
print(json.load(u.urlopen(request))["choices"][0]["text"])
ASK
        echo "after $second s; installed: $(du -sh "$folder/venv" | cut -f1)"
        exit 0
    fi
    sleep 1
done
cat "$folder/serve.log"
exit 1
