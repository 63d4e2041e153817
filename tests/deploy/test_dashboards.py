"""Grafana's dashboards: their form, and every expression in them."""

import json
import re
import unittest

import yaml

from metrics import unknown_metrics
from sources import DEPLOY, ENVIRONMENT, call, compile_types

GRAFANA = DEPLOY / "grafana"
PANELS = {"row", "stat", "timeseries", "bargauge", "alertlist"}


def dashboards() -> list[tuple[str, dict]]:
    return [(path.name, json.loads(path.read_text())) for path in sorted(GRAFANA.glob("dashboards/*.json"))]


# Grafana's types have enums, JSON has their values.
PLAIN = "type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;"
CONFIGURATIONS = "@grafana/schema/dist/types/raw/composable/{0}/panelcfg/x/{1}PanelCfg_types.gen.d.ts"
OPTIONS = {"stat": "Stat", "timeseries": "TimeSeries", "bargauge": "BarGauge"}


class Dashboards(unittest.TestCase):
    def test_grafanas_own_types(self):
        """Every field of dashboards and panels, by the package that Grafana makes from its schema."""
        lines = [PLAIN]

        def declare(kind: str, value: object):
            lines.append(f"export const value{len(lines)}: Plain<{kind}> = {json.dumps(value)};")

        for _, board in dashboards():
            declare('import("@grafana/schema").Dashboard', board)
            for panel in board["panels"]:
                if panel["type"] in OPTIONS:
                    module = CONFIGURATIONS.format(panel["type"], OPTIONS[panel["type"]])
                    declare(f'Partial<import("{module}").Options>', panel["options"])
                if panel["type"] == "timeseries":
                    drawing = panel["fieldConfig"]["defaults"]["custom"]
                    declare('import("@grafana/schema").GraphFieldConfig', drawing)
        compile_types("dashboards.mts", lines)

    def test_form(self):
        uids = [board["uid"] for _, board in dashboards()]
        self.assertEqual(len(uids), 3)
        self.assertEqual(len(set(uids)), 3)
        for name, board in dashboards():
            with self.subTest(dashboard=name):
                self.assertGreaterEqual(board["schemaVersion"], 39)
                numbers = [panel["id"] for panel in board["panels"]]
                self.assertEqual(len(set(numbers)), len(numbers))
                self.assertLessEqual({panel["type"] for panel in board["panels"]}, PANELS)
                self.assertNotIn("id", board, "an id belongs to one Grafana")

    def test_panels_do_not_overlap(self):
        for name, board in dashboards():
            taken = {}
            for panel in board["panels"]:
                place = panel["gridPos"]
                self.assertLessEqual(place["x"] + place["w"], 24)
                for x in range(place["x"], place["x"] + place["w"]):
                    for y in range(place["y"], place["y"] + place["h"]):
                        self.assertNotIn((x, y), taken, f"{name}: {panel['title']} lies on {taken.get((x, y))}")
                        taken[x, y] = panel["title"]

    def test_money_comes_first(self):
        wanted = {"Starvation ratio", "Cost per 1,000 captions", "Energy per 1,000 captions"}
        for name, board in dashboards():
            self.assertEqual({panel["title"] for panel in board["panels"][:3]}, wanted, name)

    def test_every_query_goes_to_the_chosen_source(self):
        for name, board in dashboards():
            variables = {variable["name"] for variable in board["templating"]["list"]}
            for panel in board["panels"]:
                for target in panel.get("targets", []):
                    self.assertEqual(target["datasource"]["uid"], "${datasource}")
                    used = set(re.findall(r"\$\{?([a-z]\w*)", target["expr"]))
                    self.assertLessEqual(used, variables, f"{name}: {panel['title']}")

    def test_prometheus_reads_every_expression(self):
        rules = []
        for _, board in dashboards():
            for panel in board["panels"]:
                for target in panel.get("targets", []):
                    self.assertFalse(unknown_metrics(target["expr"]), panel["title"])
                    plain = re.sub(r"\$__(rate_interval|range)", "5m", target["expr"])
                    plain = re.sub(r"\$[a-z]\w*", ".*", plain)
                    rules.append({"record": f"expression:{len(rules)}", "expr": plain})
        self.assertGreater(len(rules), 40)
        path = ENVIRONMENT / "expressions.yml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
        call("promtool", "check", "rules", path)


class Provisioning(unittest.TestCase):
    def test_the_compose_file_mounts_what_grafana_is_told(self):
        compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
        mounts = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"])
        self.assertEqual(mounts["../grafana/provisioning"], "/etc/grafana/provisioning")
        provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/captionfleet.yaml").read_text())["providers"][0]
        self.assertEqual(provider["options"]["path"], mounts["../grafana/dashboards"])
        home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertTrue((GRAFANA / "dashboards" / home.rpartition("/")[2]).is_file())
        source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
        host = source["url"].removeprefix("http://").partition(":")[0]
        self.assertIn(host, compose["services"])
