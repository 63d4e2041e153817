"""CustomResourceDefinitions as JSON schemas that refuse unknown fields, as `kubectl apply` does."""

import pathlib

import yaml


def schemas(folder: pathlib.Path) -> dict[tuple[str, str], dict]:
    """By API version and kind."""
    found = {}
    for path in sorted(folder.rglob("*.y*ml")):
        for item in yaml.safe_load_all(path.read_text()):
            if not item or item.get("kind") != "CustomResourceDefinition":
                continue
            spec = item["spec"]
            for version in spec["versions"]:
                schema = closed(version["schema"]["openAPIV3Schema"])
                # The API server checks these itself.
                schema["properties"]["metadata"] = {"type": "object"}
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def closed(schema: dict) -> dict:
    """The same schema without room for fields that it does not name."""
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = closed(schema[key])
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    # Formats and patterns of Go need not be those of Python.
    for key in ("format", "pattern"):
        schema.pop(key, None)
    return schema
