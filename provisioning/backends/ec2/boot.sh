# Turns a fresh machine into a workspace: fetch the start from the server, pull the image, run the container.
#
# Above this line the server has set WORKSPACE_ID, PLATFORM_URL, ORG_ID and BOOT_TOKEN. Needs bash, curl, python3 and
# Docker. The environment may override ROOT, METADATA, PAUSE_S (seconds between tries) and WATCHES (looks at the container).
set -Eeuo pipefail
umask 077

ROOT=${ROOT:-/var/lib/workspace}
METADATA=${METADATA:-http://169.254.169.254}
PAUSE_S=${PAUSE_S:-10}
WATCHES=${WATCHES:-60}
CONTAINER=ws-$WORKSPACE_ID
CONSOLE=/dev/console
[ -w "$CONSOLE" ] || CONSOLE=/dev/null
STEP=cloud_init
mkdir -p "$ROOT"
printf 'Authorization: Bearer %s\nX-Molecule-Org-Id: %s\n' "$BOOT_TOKEN" "$ORG_ID" >"$ROOT/headers"

say() {
    printf 'workspace-boot: %s\n' "$*" | tee -a "$ROOT/boot.log" "$CONSOLE"
}

# The server shows the phases to people; a boot does not fail because one of them was not told.
phase() {
    STEP=$1
    say "$1 ${2:-}"
    python3 -c 'import json, sys; print(json.dumps({"phase": sys.argv[1], "message": sys.argv[2][-500:]}))' \
        "$1" "${2:-}" |
        curl --silent --show-error --max-time 20 --header "@$ROOT/headers" --header 'Content-Type: application/json' \
            --data @- --output /dev/null "$PLATFORM_URL/internal/workspaces/boot-events" || true
}

crashed() {
    trap - ERR
    local log
    log=$(docker logs --tail 200 "$CONTAINER" 2>&1) || log=$(tail -n 50 "$ROOT/boot.log")
    { printf 'RUNTIME CRASHED after %s: %s\n' "$STEP" "$1"; printf '%s\n' "$log"; } | tee -a "$CONSOLE"
    phase crashed "after $STEP: $1
$log"
    exit 1
}
trap 'crashed "line $LINENO failed"' ERR

# Docker may still be starting.
wait_for_docker() {
    for _ in $(seq 60); do
        if docker info >/dev/null 2>&1; then return; fi
        sleep 2
    done
    crashed "Docker does not answer"
}

# 401 and 409 are final: the token has had its time, or a newer start owns the workspace and this machine is in its way.
fetch_start() {
    local code
    for _ in $(seq 60); do
        code=$(curl --silent --show-error --max-time 60 --header "@$ROOT/headers" --output "$ROOT/start.json" \
            --write-out '%{http_code}' "$PLATFORM_URL/internal/workspaces/boot-config") || code=unreachable
        case $code in
        200) return ;;
        401) crashed "the server does not accept the boot token" ;;
        409) say "superseded by a newer start"; shutdown -h now; exit 0 ;;
        esac
        say "the server answered $code"
        sleep "$PAUSE_S"
    done
    crashed "the server at $PLATFORM_URL could not be reached"
}

own_address() {
    local token
    token=$(curl --silent --fail --connect-timeout 2 --max-time 5 --request PUT \
        --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$METADATA/latest/api/token") &&
        curl --silent --fail --max-time 5 --header "X-aws-ec2-metadata-token: $token" \
            "$METADATA/latest/meta-data/local-ipv4" || hostname -I | awk '{print $1}'
}

# Writes the config files, and what the steps below read. Values reach the container through docker's own environment: not
# through a command line that others can list, nor through a file format that knows no newlines.
unpack() {
    ADDRESS=$1 ROOT=$ROOT CONTAINER=$CONTAINER python3 - <<'PYTHON'
import base64, json, os, pathlib

root, address, name = pathlib.Path(os.environ["ROOT"]), os.environ["ADDRESS"], os.environ["CONTAINER"]
start = json.loads((root / "start.json").read_text())
limits, auth = start["container"], start["registry_auth"] or {}

for folder in ("configs", "workspace", "sessions"):
    (root / folder).mkdir(mode=0o755, exist_ok=True)
    os.chown(root / folder, 1000, 1000)
    (root / folder).chmod(0o755)
for path, file in start["files"].items():
    target = root / "configs" / path
    if ".." in target.parts or not target.is_relative_to(root / "configs"):
        raise SystemExit(f"unsafe file name {path!r}")
    for parent in reversed(target.relative_to(root / "configs").parents[:-1]):
        (root / "configs" / parent).mkdir(mode=0o755, exist_ok=True)
        (root / "configs" / parent).chmod(0o755)
        os.chown(root / "configs" / parent, 1000, 1000)
    target.write_bytes(base64.b64decode(file["content_b64"]))
    target.chmod(file["mode"])
    os.chown(target, 1000, 1000)

is_host = limits["network"] == "host"
arguments = ["docker", "run", "--detach", "--name", name, "--restart", "unless-stopped", "--init"]
arguments += ["--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=3"]
arguments += ["--network", "host"] if is_host else ["--hostname", name, "--publish", "8000:8000"]
arguments += ["--memory", f"{limits['memory_mb']}m", "--cpus", str(limits["cpus"])]
arguments += ["--pids-limit", str(limits["pids_limit"])]
for flag in ("privileged", "read_only"):
    arguments += [f"--{flag.replace('_', '-')}"] if limits[flag] else []
arguments += ["--pid", "host"] if limits["pid_host"] else []
arguments += ["--security-opt", "no-new-privileges"] if limits["no_new_privileges"] else []
for flag, values in (("--cap-drop", limits["cap_drop"]), ("--cap-add", limits["cap_add"])):
    arguments += [word for value in values for word in (flag, value)]
for path, settings in limits["tmpfs"].items():
    arguments += ["--tmpfs", f"{path}:{settings}"]
for source, target in limits["mounts"].items():
    arguments += ["--volume", f"{source if source.startswith('/') else root / source}:{target}"]

environment = {**start["env"], "HOSTNAME": address, "MOLECULE_WORKSPACE_URL": f"http://{address}:8000"}
arguments += [word for key in environment for word in ("--env", key)]
run = {"arguments": [*arguments, start["image"]], "environment": environment}
(root / "run.json").write_text(json.dumps(run))
(root / "image").write_text(start["image"])
(root / "network").write_text(limits["network"])
(root / "registry").write_text("\n".join(auth.get(key, "") for key in ("server", "username")) + "\n")
(root / "registry-password").write_text(auth.get("password", ""))
PYTHON
}

# A container in the machine's own network is one hop from the metadata service, so the machine keeps it away.
close_metadata() {
    iptables -I OUTPUT -d 169.254.169.254 -m owner ! --uid-owner 0 -j DROP
    ip6tables -I OUTPUT -d fd00:ec2::254 -m owner ! --uid-owner 0 -j DROP
}

pull() {
    local image server user
    image=$(cat "$ROOT/image")
    { read -r server; read -r user; } <"$ROOT/registry"
    case $image in
    */*) ;;
    *) # a name without a registry means the machine's own copy, never a stranger's on the public one
        docker image inspect "$image" >/dev/null || crashed "the machine image has no $image"
        return
        ;;
    esac
    if [ -n "$user" ]; then
        docker login --username "$user" --password-stdin "$server" <"$ROOT/registry-password" >/dev/null
    fi
    for _ in $(seq 5); do
        if docker pull --quiet "$image"; then return; fi
        if docker image inspect "$image" >/dev/null 2>&1; then
            say "$image could not be pulled; the machine's own copy is used"
            return
        fi
        sleep "$PAUSE_S"
    done
    crashed "the image $image could not be pulled"
}

run_container() {
    python3 - "$ROOT/run.json" <<'PYTHON'
import json, os, sys

run = json.load(open(sys.argv[1]))
os.execvpe("docker", run["arguments"], {**os.environ, **run["environment"]})
PYTHON
}

# An agent that keeps ending is told of at once, and not only when the server has waited long enough.
watch() {
    local state restarts
    for _ in $(seq "$WATCHES"); do
        read -r state restarts < <(docker inspect --format '{{.State.Status}} {{.RestartCount}}' "$CONTAINER")
        if [ "$state" = exited ] || [ "$restarts" -ge 3 ]; then crashed "the container is $state, restarted $restarts times"; fi
        sleep "$PAUSE_S"
    done
}

phase cloud_init
wait_for_docker
phase docker_ready
fetch_start
phase config_fetched
address=$(own_address)
unpack "$address"
if [ "$(cat "$ROOT/network")" = host ]; then close_metadata; fi
pull
phase image_pulled
docker rm --force "$CONTAINER" >/dev/null 2>&1 || true
run_container
rm -f "$ROOT/start.json" "$ROOT/run.json" "$ROOT/registry-password"
phase container_started
watch
