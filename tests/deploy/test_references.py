"""What the objects say about each other."""

import unittest

from sources import containers, name_of, pod_templates, with_every_component

# Made by whoever installs the fleet (deploy/kubernetes/README.md), or optional.
SECRETS = {
    "captionfleet-api": {"token"},
    "captionfleet-broker": {"uri", "username", "password"},
    "captionfleet-s3": set(),
}
# Pods that operators make: their labels are known, the objects are not.
FOREIGN_PODS = [{"app.kubernetes.io/name": "captionfleet-rabbitmq"}]
# What KEDA's metrics-api scaler reads; its metadata is a map of strings, so no schema finds a misspelt key.
SCALER_KEYS = {"url", "valueLocation", "targetValue", "activationTargetValue", "authMode"}


def selects(selector: dict, labels: dict) -> bool:
    for rule in selector.get("matchExpressions", []):
        if rule["operator"] != "In" or labels.get(rule["key"]) not in rule["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


class References(unittest.TestCase):
    def setUp(self):
        self.items = with_every_component()
        self.templates = pod_templates(self.items)
        self.assertEqual(len(self.templates), 3)

    def of_kind(self, kind: str) -> list[dict]:
        return [item for item in self.items if item["kind"] == kind]

    def test_every_selector_finds_pods(self):
        labels = [template["metadata"]["labels"] for _, template in self.templates] + FOREIGN_PODS
        selectors = [(item, {"matchLabels": item["spec"]["selector"]}) for item in self.of_kind("Service")]
        for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
            selectors += [(item, item["spec"]["selector"]) for item in self.of_kind(kind)]
        for item in self.of_kind("NetworkPolicy"):
            selectors.append((item, item["spec"]["podSelector"]))
            rules = item["spec"].get("ingress", []) + item["spec"].get("egress", [])
            for peer in (peer for rule in rules for peer in rule.get("from", []) + rule.get("to", [])):
                # Pods of other namespaces are not ours to know.
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    selectors.append((item, peer["podSelector"]))
        self.assertGreater(len(selectors), 10)
        for item, selector in selectors:
            with self.subTest(item=name_of(item), selector=selector):
                self.assertTrue(any(selects(selector, pod) for pod in labels))

    def test_every_port_has_a_name_that_a_container_opens(self):
        ports = {}
        for _, template in self.templates:
            name = template["metadata"]["labels"]["app.kubernetes.io/name"]
            ports[name] = {port["name"] for part in containers(template) for port in part.get("ports", [])}
            for part in containers(template):
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    if probe in part:
                        self.assertIn(part[probe]["httpGet"]["port"], ports[name])
        for service in self.of_kind("Service"):
            behind = ports[service["spec"]["selector"]["app.kubernetes.io/name"]]
            self.assertLessEqual({port["targetPort"] for port in service["spec"]["ports"]}, behind)
        services = {service["metadata"]["name"]: service["spec"]["ports"] for service in self.of_kind("Service")}
        for monitor in self.of_kind("ServiceMonitor"):
            (name,) = monitor["spec"]["selector"]["matchLabels"].values()
            names = {port["name"] for port in services[name]}
            self.assertLessEqual({endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}, names)
        for monitor in self.of_kind("PodMonitor"):
            (name,) = monitor["spec"]["selector"]["matchLabels"].values()
            self.assertLessEqual({end["port"] for end in monitor["spec"]["podMetricsEndpoints"]}, ports[name])

    def test_every_secret_map_and_account_is_known(self):
        maps = {item["metadata"]["name"] for item in self.of_kind("ConfigMap")}
        accounts = {item["metadata"]["name"] for item in self.of_kind("ServiceAccount")}
        for item, template in self.templates:
            with self.subTest(item=name_of(item)):
                spec = template["spec"]
                self.assertIn(spec["serviceAccountName"], accounts)
                for source in (source for part in containers(template) for source in part.get("envFrom", [])):
                    if "configMapRef" in source:
                        self.assertIn(source["configMapRef"]["name"], maps)
                    else:
                        self.assertIn(source["secretRef"]["name"], SECRETS)
                for variable in (variable for part in containers(template) for variable in part.get("env", [])):
                    if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                        self.assertIn(reference["key"], SECRETS[reference["name"]])
                for volume in spec["volumes"]:
                    if "configMap" in volume:
                        self.assertIn(volume["configMap"]["name"], maps)
                    for key in volume.get("secret", {}).get("items", []):
                        self.assertIn(key["key"], SECRETS[volume["secret"]["secretName"]])
                volumes = {volume["name"] for volume in spec["volumes"]}
                mounted = {mount["name"] for part in containers(template) for mount in part.get("volumeMounts", [])}
                self.assertEqual(mounted, volumes)

    def test_the_scaler_asks_the_dispatcher(self):
        (scaled,) = self.of_kind("ScaledObject")
        deployments = {item["metadata"]["name"]: item for item in self.of_kind("Deployment")}
        target = deployments[scaled["spec"]["scaleTargetRef"]["name"]]
        self.assertNotIn("replicas", target["spec"], "applying it again would undo what KEDA set")
        (authentication,) = self.of_kind("TriggerAuthentication")
        for reference in authentication["spec"]["secretTargetRef"]:
            self.assertIn(reference["key"], SECRETS[reference["name"]])
        (service,) = self.of_kind("Service")
        host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
        self.assertEqual(len(scaled["spec"]["triggers"]), 2)
        for trigger in scaled["spec"]["triggers"]:
            metadata = trigger["metadata"]
            self.assertEqual(set(metadata), SCALER_KEYS)
            self.assertEqual(metadata["url"], f"http://{host}:8080/api/v1/scale")
            self.assertEqual(trigger["authenticationRef"]["name"], authentication["metadata"]["name"])
            self.assertIn(metadata["valueLocation"], ("backlog_gpu_seconds", "interactive_waiting", "wanted_workers"))
            self.assertGreater(float(metadata["targetValue"]), 0)
            self.assertEqual(float(metadata["activationTargetValue"]), 0, "the last small job would wait for ever")

    def test_a_drain_fits_into_the_grace_period(self):
        (worker,) = (template for item, template in self.templates if item["metadata"]["name"] == "captionfleet-worker")
        (container,) = worker["spec"]["containers"]
        (grace,) = (variable["value"] for variable in container["env"] if variable["name"] == "CAPTIONFLEET_GRACE")
        self.assertGreaterEqual(worker["spec"]["terminationGracePeriodSeconds"], int(grace) + 10)
