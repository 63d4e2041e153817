"""Every Kubernetes object against the schema of its kind."""

import json
import os
import pathlib
import unittest

import jsonschema
import kubernetes_validate
import yaml

import crds
from sources import DEPLOY, ENVIRONMENT, call, compile_types, everything, name_of

# Fields of these are checked by the packages in package.json, which are made from the operators' own definitions.
BY_PACKAGE = {
    "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
    "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
}
# The definitions of RabbitMQ's operators come with no package: this schema is ours, of the fields in use.
RABBITMQ = json.loads(pathlib.Path(__file__).with_name("rabbitmq.schema.json").read_text())


def is_custom(item: dict) -> bool:
    group = item["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith("k8s.io")


class Schemas(unittest.TestCase):
    def test_builtin_kinds(self):
        items = [(place, item) for place, item in everything() if not is_custom(item)]
        self.assertGreater(len(items), 20)
        for place, item in items:
            with self.subTest(place=place, item=name_of(item)):
                kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)

    def test_rabbitmq_objects(self):
        items = [item for _, item in everything() if item["apiVersion"] == "rabbitmq.com/v1beta1"]
        self.assertGreater(len(items), 3)
        for item in items:
            with self.subTest(item=name_of(item)):
                jsonschema.validate({"kind": item["kind"], "spec": item["spec"]}, RABBITMQ)

    def test_keda_and_prometheus_objects(self):
        items = [item for _, item in everything() if item["apiVersion"] in BY_PACKAGE]
        self.assertGreater(len(items), 4)
        # The packages' own check says what is missing or of a wrong type; the compiler finds fields that do not exist.
        values, types = [], []
        for number, item in enumerate(items):
            kind = item["kind"]
            module = f"{BY_PACKAGE[item['apiVersion']]}/{kind}"
            text = json.dumps(item)
            values.append(f"new (await import({json.dumps(module)})).{kind}({text}).validate();")
            types.append(f"export const item{number}: import({json.dumps(module)}).I{kind} = {text};")
        (ENVIRONMENT / "values.mjs").write_text("\n".join(values))
        call("node", "values.mjs", cwd=ENVIRONMENT)
        compile_types("objects.mts", types)

    @unittest.skipUnless("CRDS" in os.environ, "needs CRDS=folder with the operators' CustomResourceDefinitions")
    def test_custom_kinds_against_crds(self):
        schemas = crds.schemas(pathlib.Path(os.environ["CRDS"]))
        items = [(place, item) for place, item in everything() if is_custom(item)]
        for place, item in items:
            with self.subTest(place=place, item=name_of(item)):
                self.assertIn((item["apiVersion"], item["kind"]), schemas)
                jsonschema.validate(item, schemas[item["apiVersion"], item["kind"]])


class Monitors(unittest.TestCase):
    def test_the_rule_object_is_the_rules_file(self):
        rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
        made = yaml.safe_load((DEPLOY / "kubernetes/components/monitoring/alerts.yaml").read_text())
        self.assertEqual(made["spec"], rules, "run deploy/kubernetes/components/monitoring/alerts.sh")
