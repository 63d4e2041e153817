"""Where things lie, and how programs are called."""

import functools
import os
import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
ENVIRONMENT = pathlib.Path(os.environ["DEPLOY_ENVIRONMENT"])

# Everything that anybody would render: the base alone, and every overlay.
KUSTOMIZATIONS = [KUBERNETES / "base", *sorted((KUBERNETES / "overlays").iterdir())]


def call(*command, **options) -> str:
    """Runs a program; its output is the error when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command[0]}: {done.stdout}{done.stderr}")
    return done.stdout


def compile_types(name: str, lines: list[str]):
    """Has TypeScript's compiler compare values with types; it refuses fields that a type does not have."""
    (ENVIRONMENT / name).write_text("\n".join(lines))
    flags = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext"]
    call("node", ENVIRONMENT / "node_modules/typescript/bin/tsc", *flags, name, cwd=ENVIRONMENT)


@functools.cache
def rendered(folder: pathlib.Path) -> list[dict]:
    """The objects of a kustomization."""
    return [item for item in yaml.safe_load_all(call("kubectl", "kustomize", folder)) if item]


@functools.cache
def with_every_component() -> list[dict]:
    """The objects of the base with all components, those that the overlays leave to the reader included."""
    components = sorted((KUBERNETES / "components").iterdir())
    # A kustomization refers to others by relative paths only.
    with_all = ENVIRONMENT / "every-component"
    with_all.mkdir(exist_ok=True)
    relative = functools.partial(os.path.relpath, start=with_all)
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "captionfleet",
        "resources": [relative(KUBERNETES / "base")],
        "components": [relative(component) for component in components],
    }
    (with_all / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return rendered(with_all)


def everything() -> list[tuple[str, dict]]:
    """All objects that can be rendered, each with where it comes from."""
    found = [(folder.name, item) for folder in KUSTOMIZATIONS for item in rendered(folder)]
    return found + [("every component", item) for item in with_every_component()]


def name_of(item: dict) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def pod_templates(items: list[dict]) -> list[tuple[dict, dict]]:
    """Deployments and CronJobs with the pods that they make."""
    found = []
    for item in items:
        spec = item.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if item["kind"] in ("Deployment", "CronJob"):
            found.append((item, spec["template"]))
    return found


def containers(template: dict) -> list[dict]:
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]
