#!/usr/bin/env bash
# Writes alerts.yaml from the rules that Prometheus itself reads and promtool tests, so that there is one list of alerts.
# A kustomization cannot do this: it may include files as text, not as parts of an object.
set -euo pipefail
cd "$(dirname "$0")"
{
  echo "# Made by alerts.sh from deploy/prometheus/alerts.yml; edit that file and run the script."
  echo "apiVersion: monitoring.coreos.com/v1"
  echo "kind: PrometheusRule"
  echo "metadata:"
  echo "  name: captionfleet"
  echo "spec:"
  sed -e '/^#/d' -e 's/^\(.\)/  \1/' ../../../prometheus/alerts.yml
} >"${1:-alerts.yaml}"
