"""Prometheus: its configuration, its alerts, and where they send whom they wake."""

import re
import unittest

import yaml

from metrics import unknown_metrics
from sources import DEPLOY, call

PROMETHEUS = DEPLOY / "prometheus"


def alerts() -> list[dict]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


class Rules(unittest.TestCase):
    def test_promtool(self):
        call("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
        # The token is not here.
        call("promtool", "check", "config", "--syntax-only", PROMETHEUS / "machines.yml")
        call("promtool", "check", "rules", PROMETHEUS / "alerts.yml")
        call("promtool", "test", "rules", PROMETHEUS / "alerts_test.yml")

    def test_both_configurations_name_their_jobs_alike(self):
        jobs = []
        for name in ("prometheus.yml", "machines.yml"):
            configuration = yaml.safe_load((PROMETHEUS / name).read_text())
            self.assertEqual(configuration["rule_files"], ["alerts.yml"])
            jobs.append([part["job_name"] for part in configuration["scrape_configs"]])
        self.assertEqual(*jobs)

    def test_every_alert_is_seen_to_fire(self):
        tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
        cases = [case for test in tests for case in test["alert_rule_test"]]
        fired = {case["alertname"] for case in cases if case["exp_alerts"]}
        self.assertEqual(fired, {alert["alert"] for alert in alerts()})

    def test_every_alert_has_a_section_in_the_runbook(self):
        headings = re.findall(r"^#+ (.+)$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
        anchors = {heading.lower().replace(" ", "-") for heading in headings}
        for alert in alerts():
            page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
            self.assertTrue(page.endswith("/deploy"))
            self.assertIn(anchor, anchors, alert["alert"])

    def test_every_metric_exists(self):
        for alert in alerts():
            self.assertFalse(unknown_metrics(alert["expr"]), alert["alert"])
