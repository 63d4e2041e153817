#!/bin/sh
# Gives every worker's pod the number of its jobs in hand as its deletion cost.
#
# Only numbers that have changed are written. A worker that does not answer keeps its number: it may be busy, and being
# unready, as a worker without its broker is, counts before the cost anyway.
set -eu

name=controller.kubernetes.io/pod-deletion-cost
template='{range .items[*]}{.metadata.name} {.status.podIP} {.metadata.annotations.controller\.kubernetes\.io/pod-deletion-cost}{"\n"}{end}'

kubectl get pods --selector app.kubernetes.io/name=captionfleet-worker --field-selector status.phase=Running \
  --output "jsonpath=$template" </dev/null |
  while read -r pod address cost; do
    jobs=$(curl --fail --silent --max-time 3 "http://$address:9464/metrics" </dev/null |
      awk '$1 == "captionfleet_worker_jobs_in_flight" { print int($2) }')
    if [ -n "$jobs" ] && [ "$jobs" != "${cost:-0}" ]; then
      # The pod may be gone by now, which is no failure.
      kubectl annotate pod "$pod" "$name=$jobs" --overwrite </dev/null || true
    fi
  done
