"""What a worker's machine costs, wherever one is started: without it the first panels of every dashboard stay empty."""

import unittest

import yaml

from sources import DEPLOY, KUSTOMIZATIONS, containers, pod_templates, rendered

PRICE = "CAPTIONFLEET_PRICE_PER_HOUR"
PROGRAMS = ("captionfleet-worker", "captionfleet-dispatcher")


class Prices(unittest.TestCase):
    def test_compose(self):
        services = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]
        for name in ("worker", "dispatcher"):
            self.assertGreater(float(services[name]["environment"][PRICE]), 0, name)

    def test_systemd(self):
        for path in sorted((DEPLOY / "systemd").glob("*.env")):
            lines = [line.partition("=") for line in path.read_text().splitlines() if not line.startswith("#")]
            settings = {name: value for name, _, value in lines}
            self.assertGreater(float(settings[PRICE]), 0, path.name)

    def test_kubernetes(self):
        for folder in KUSTOMIZATIONS:
            items = rendered(folder)
            maps = {item["metadata"]["name"]: item["data"] for item in items if item["kind"] == "ConfigMap"}
            programs = [pair for pair in pod_templates(items) if pair[0]["metadata"]["name"] in PROGRAMS]
            self.assertEqual(len(programs), len(PROGRAMS), folder.name)
            for item, template in programs:
                sources = [source for part in containers(template) for source in part.get("envFrom", [])]
                named = [source["configMapRef"]["name"] for source in sources if "configMapRef" in source]
                settings = {name: value for source in named for name, value in maps[source].items()}
                self.assertGreater(float(settings[PRICE]), 0, f"{folder.name}: {item['metadata']['name']}")
