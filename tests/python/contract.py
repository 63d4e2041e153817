"""Drives the whole API from its own OpenAPI document, with good input and bad.

All checks of schemathesis, as it comes: no answer may be a server error, and each must be as the document says, in status, media
type and schema. Input that the document forbids must be refused, what it allows must not be, and whoever has no token must be
refused, too. The address and the token are in the environment.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

BASE = os.environ["CAPTIONFLEET_TEST_SERVICE"]
TOKEN = os.environ["CAPTIONFLEET_TEST_TOKEN"]

# What Python says when several threads read source code at once (CPython issue 106905), so that one worker must do; no fault of
# ours where it happens all the same.
PYTHON_FAULT = "AST constructor recursion depth mismatch"

# Operations whose bodies have rules that a schema cannot tell: bytes that must be a picture, questions and their answers. What
# the document allows may be refused there.
CONFIGURATION = """
[[operations]]
include-operation-id = ["upload", "ask", "submit"]
checks.positive_data_acceptance.enabled = false
"""


def get(path: str, body: bytes | None = None) -> dict:
    request = urllib.request.Request(f"{BASE}/api/v1{path}", body, {"authorization": f"Bearer {TOKEN}"})
    return json.load(urllib.request.urlopen(request, timeout=60))


def with_examples(document: dict) -> None:
    """Names that this archive has, so that more than refusals is seen."""
    item = next(hit["item"] for hit in get("/search?limit=200")["hits"] if hit["name"].startswith("scene-000"))
    with urllib.request.urlopen(urllib.request.Request(
        f"{BASE}/api/v1/pictures?item={item}", headers={"authorization": f"Bearer {TOKEN}"}
    )) as picture:
        upload = get("/uploads", picture.read())["upload"]
    known = {"item": item, "like": item, "upload": upload, "run": get("/runs")["runs"][0]["run"], "text": "a red star"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for parameter in operation["parameters"]:
                # Where a picture is named in one of two ways, together they are refused.
                is_other = parameter["name"] == "upload" and path.endswith(("/pictures", "/search"))
                if parameter["name"] in known and not is_other:
                    parameter["example"] = known[parameter["name"]]


def main() -> None:
    document = get("/openapi.json")
    # Followed runs never end by themselves in a test, and the browser follows one.
    followed = "/api/v1/runs/{run}/events"
    assert followed in document["paths"]
    with_examples(document)
    with tempfile.TemporaryDirectory() as folder:
        described, configured = Path(folder, "openapi.json"), Path(folder, "schemathesis.toml")
        described.write_text(json.dumps(document))
        configured.write_text(CONFIGURATION)
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(configured), "run", str(described),
            "--url", BASE,
            "--header", f"Authorization: Bearer {TOKEN}",
            "--exclude-path", followed,
            "--phases", "examples,coverage,fuzzing",
            "--max-examples", "15",
            "--request-timeout", "60",
            "--workers", "1",
            "--seed", "7",
            "--generation-database", "none",
            "--no-color",
        ]
        for _ in range(3):
            ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if PYTHON_FAULT not in ran.stdout:
                break
        print(ran.stdout)
        raise SystemExit(ran.returncode)


if __name__ == "__main__":
    main()
