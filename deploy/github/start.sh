#!/usr/bin/env bash
# The steps of action.yml: `start.sh install`, then `start.sh start`. What the action is given comes as variables;
# GITHUB_* and RUNNER_TEMP, which is empty when a job begins, are the runner's.
set -euo pipefail

home=$RUNNER_TEMP/exollama
exollama=$home/bin/exollama

fail() {
  echo "::error title=exollama::$*"
  exit 1
}

install() {
  if [ -x "$exollama" ]; then return; fi # the action was used before in this job
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$PYTHON is missing or older than 3.11: put actions/setup-python before this action, or set its input python."
  "$PYTHON" -m venv "$home"
  "$home/bin/python" -m pip install --quiet --disable-pip-version-check "$GITHUB_ACTION_PATH/../.."
  mkdir "$home/path" # with this one command, so that the job keeps its own python and pip
  ln -s "$exollama" "$home/path/exollama"
  echo "$home/path" >>"$GITHUB_PATH"
}

start() {
  local folder forwarder started='' code=0
  [ -x "$exollama" ] || fail "exollama is not installed in $home: run 'start.sh install' first."

  # First the forwarder, which wakes nobody: where it cannot listen, nothing is created. One that this job has for the
  # same place and instance already is used again.
  folder=$RUNNER_TEMP/exollama-forwarder.$(printf '%s\n' "$LISTEN" "$EXOSCALE_ZONE" "$EXOSCALE_INSTANCE_NAME" \
    "$EXOSCALE_OLLAMA_MODEL" "$EXOSCALE_IDLE_TIMEOUT" "$EXOSCALE_API_KEY" | cksum | cut -d ' ' -f 1)
  forwarder=$(running "$folder") || {
    ! alive "$folder" || fail "This job's forwarder runs and does not answer; its log is $folder/log."
    trap 'kill "$started" 2>/dev/null || true; exit 143' INT TERM
    # A step ends once nothing holds its streams any more, so the forwarder gets none of them.
    [ -d "$folder" ] || mkdir -m 700 "$folder"
    nohup "$exollama" serve --listen "$LISTEN" --json >"$folder/address" 2>"$folder/log" </dev/null &
    started=$!
    echo "$started" >"$folder/pid"
    forwarder=$(address "$started" "$folder") || {
      kill "$started" 2>/dev/null || true
      tail -n 20 "$folder/log"
      fail "The forwarder does not answer; nothing was provisioned. The end of its log stands above. Where its port is" \
        "taken, perhaps by this job's forwarder to another instance, set the input listen: 127.0.0.1:11435, say."
    }
  }

  # A signal ends provision, which leaves what it made owned, and no half of it in the job's environment.
  trap 'kill "$!" 2>/dev/null || true' INT TERM
  "$exollama" provision --format github &
  wait "$!" || code=$?
  while kill -0 "$!" 2>/dev/null; do # a signal ended the wait before it ended what was waited for
    code=0
    wait "$!" || code=$?
  done
  trap - INT TERM
  if [ "$code" -ne 0 ]; then
    if [ "$started" ]; then
      kill "$started" 2>/dev/null || true
      wait "$started" || true
    fi
    exit "$code"
  fi

  echo "forwarder=$forwarder" >>"$GITHUB_OUTPUT"
  echo "Ollama is at $forwarder; the forwarder's log is $folder/log"
}

running() { # running FOLDER: print the address of the forwarder that an earlier step left there, if it answers
  alive "$1" && address "$(cat "$1/pid")" "$1"
}

alive() { # alive FOLDER: whether that forwarder runs
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null
}

address() { # address PID FOLDER: print the forwarder's once its status answers, within half a minute
  local until=$((SECONDS + 30))
  while [ "$SECONDS" -lt "$until" ]; do
    if "$PYTHON" - "$2/address" 2>/dev/null <<'EOF'; then return; fi
import http.client, json, sys, urllib.parse
url = json.load(open(sys.argv[1]))["url"]
connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=5)
connection.request("GET", "/.exollama/status")
connection.getresponse()  # a refusal for want of a token is an answer, too
print(url)
EOF
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
  done
  return 1
}

case ${1-} in
  install | start) "$1" ;;
  *) fail "start.sh knows install and start, not '${1-}'." ;;
esac
