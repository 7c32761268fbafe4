#!/bin/sh
# Builds and runs the service as the README says, and asks it once: `check.sh REPOSITORY RUN`.
# Where Docker is not at hand the same steps are taken in a clean virtual environment, which it says.
set -eu
repository=$(cd "$1" && pwd) run=$(cd "$2" && pwd)
work=$(mktemp -d)
port=${PORT:-8099}
server= process=
stop() {
    if [ -n "$server" ]; then $server > /dev/null 2>&1 || true; fi
    if [ -n "$process" ]; then wait "$process" 2> /dev/null || true; fi
    chmod -R u+w "$work"
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM
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
    process=$!
    server="kill $process"
    how="in a virtual environment"
fi

python3 - "$port" "$work/token" "$process" << 'PYTHON'
import json, os, sys, time, urllib.error, urllib.request

port, token, process = sys.argv[1], open(sys.argv[2]).read(), sys.argv[3]
start = time.monotonic()
while True:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2)
        break
    except OSError:
        if process:
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                sys.exit("the service ended before it answered")
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


right, token = token, "wrong" * 8
try:
    ask("/recommend", {"history": []})
    sys.exit("a wrong token was answered")
except urllib.error.HTTPError as error:
    if error.code != 401:
        sys.exit(f"a wrong token was answered with {error.code}, not 401")
token = right
answer = ask("/recommend", {"history": [], "top_k": 3})
print(json.dumps(answer, ensure_ascii=False)[:300])
items = [item for each in answer["answers"] for item in each["items"]]
if len(items) != 3:
    sys.exit(f"3 items were wanted, got {len(items)}")
PYTHON
echo "the service answered, $how"
