"""Where things lie, and how programs are called."""

import functools
import os
import pathlib
import re
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


# Agreed on, and not in the programs' sources yet.
PROMISED_METRICS = {
    "captionfleet_backlog_gpu_seconds",
    "captionfleet_cost_per_1000_captions",
    "captionfleet_energy_joules_total",
    "captionfleet_index_lag_seconds",
    "captionfleet_ready",
    "captionfleet_wanted_workers",
}


@functools.cache
def known_metrics() -> set[str]:
    """Every metric that the programs' sources declare, and what each histogram is made of."""
    known = PROMISED_METRICS | {"up", "process_start_time_seconds", "process_resident_memory_bytes"}
    for program in ("worker", "dispatcher"):
        for path in sorted((ROOT / program / "src").rglob("*.rs")):
            source = path.read_text()
            known |= set(re.findall(r'"(captionfleet_[a-z0-9_]+)"', source))
            if "telemetry" in path.relative_to(ROOT).as_posix():
                for name in re.findall(r'"([a-z][a-z0-9_]+)"', source):
                    whole = f"captionfleet_{program}_{name}"
                    known |= {whole, f"{whole}_bucket", f"{whole}_sum", f"{whole}_count"}
    return known


def unknown_metrics(expression: str) -> set[str]:
    """Names of an expression that look like metrics of ours, or of the process, and are none."""
    named = set(re.findall(r"\b(?:captionfleet|process)_[a-z0-9_]+\b", expression))
    return named - known_metrics()
