#!/bin/sh
# Builds and runs the service as the README says, and asks it once: `check.sh REPOSITORY RUN`.
# Where Docker is not at hand the same steps are taken in a clean virtual environment, which it says.
set -eu
repository=$(cd "$1" && pwd) run=$(cd "$2" && pwd)
work=$(mktemp -d)
port=${PORT:-8099}
stop() { if [ -n "${server:-}" ]; then $server || true; fi; rm -rf "$work"; }
trap stop EXIT INT TERM
head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$work/token"
chmod 644 "$work/token"

if command -v docker > /dev/null && docker info > /dev/null 2>&1; then
    docker build --quiet --tag semrec "$repository"
    container=$(docker run --detach --read-only --tmpfs /tmp --publish "127.0.0.1:$port:8000" \
        --volume "$run:/run-folder:ro" --volume "$work/token:/run/secrets/token:ro" semrec)
    server="docker rm --force $container"
    how="in Docker"
else
    echo "Docker is not at hand: the steps are taken in a virtual environment."
    python3 -m venv "$work/venv"
    sh "$repository/docker/install.sh" "$work/venv/bin/python" "$repository"
    cp -r "$run" "$work/run-folder"
    chmod -R a-w "$work/run-folder"
    cd "$work"
    "$work/venv/bin/prorec" serve --run "$work/run-folder" --port "$port" --token-file "$work/token" &
    server="kill $!"
    how="in a virtual environment"
fi

python3 - "$port" "$work/token" << 'PYTHON'
import json, sys, time, urllib.error, urllib.request

port, token = sys.argv[1], open(sys.argv[2]).read()
start = time.monotonic()
while True:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2)
        break
    except (OSError, urllib.error.URLError):
        if time.monotonic() - start > 120:
            sys.exit("the service did not answer /ready within 120 seconds")
        time.sleep(0.2)
print(f"ready after {time.monotonic() - start:.1f} s")


def ask(path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    return json.load(urllib.request.urlopen(request, timeout=30))


answer = ask("/recommend", {"history": [], "top_k": 3})
print(json.dumps(answer, ensure_ascii=False)[:300])
items = [item for each in answer["answers"] for item in each["items"]]
if len(items) != 3:
    sys.exit(f"3 items were wanted, got {len(items)}")
PYTHON
echo "the service answered, $how"
