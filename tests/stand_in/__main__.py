"""The stand-in as a script: `python tests/stand_in/__main__.py ADDRESS PORT STATE_DIRECTORY CONTROL_FILE VERSION`.

STATE_DIRECTORY keeps which models were pulled, as the container's volume does. CONTROL_FILE holds `Controls` as JSON
and is read again at each request and token, so that a running stream can be slowed down, held or cut. Beside it,
requests.log has a line for each request that ended, `ID PATH END`: ID is its X-Request-Id or `-`; END is `done`,
`left` where the client went away, or `cut`.
"""

import sys
from pathlib import Path

if not __package__:  # run by its path, as the simulator does with -I, which leaves even the script's directory out
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.stand_in import library, native, openai, responses
from tests.stand_in.exchange import Deed, Server
from tests.stand_in.models import Models

DEEDS: dict[tuple[str, str], Deed] = {
    ("GET", "/"): library.root,
    ("GET", "/api/version"): library.version,
    ("GET", "/api/tags"): library.tags,
    ("GET", "/api/ps"): library.running,
    ("POST", "/api/show"): library.show,
    ("POST", "/api/pull"): library.pull,
    ("POST", "/api/push"): library.push,
    ("POST", "/api/create"): library.create,
    ("POST", "/api/copy"): library.copy,
    ("DELETE", "/api/delete"): library.delete,
    ("GET", "/api/blobs/*"): library.find_blob,
    ("POST", "/api/blobs/*"): library.take_blob,
    ("POST", "/api/generate"): native.generate,
    ("POST", "/api/chat"): native.chat,
    ("POST", "/api/embed"): native.embed,
    ("POST", "/api/embeddings"): native.embeddings,
    ("GET", "/v1/models"): openai.models,
    ("GET", "/v1/models/*"): openai.model,
    ("POST", "/v1/chat/completions"): openai.chat,
    ("POST", "/v1/completions"): openai.completions,
    ("POST", "/v1/embeddings"): openai.embeddings,
    ("POST", "/v1/responses"): responses.create,
}


def main() -> None:
    address, port, state, control, version = sys.argv[1:]
    models = Models(Path(state))
    Server((address, int(port)), deeds=DEEDS, models=models, control=Path(control), version=version).serve_forever()


if __name__ == "__main__":
    main()
