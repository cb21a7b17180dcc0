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
  local folder forwarder
  "$exollama" provision --format github

  # A step ends once nothing holds its streams any more, so the forwarder gets none of them.
  folder=$(mktemp -d "$RUNNER_TEMP/exollama-forwarder.XXXXXX")
  nohup "$exollama" serve --listen "$LISTEN" --json >"$folder/address" 2>"$folder/log" </dev/null &
  forwarder=$(address $! "$folder") || {
    tail -n 20 "$folder/log"
    fail "The forwarder does not answer. The end of its log stands above."
  }
  echo "forwarder=$forwarder" >>"$GITHUB_OUTPUT"
  echo "Ollama is at $forwarder; the forwarder's log is $folder/log"
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
