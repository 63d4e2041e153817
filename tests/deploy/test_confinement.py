"""What pods may do. Pictures come from strangers, so every pod that decodes them is as powerless as can be."""

import unittest

from sources import KUBERNETES, containers, everything, name_of, pod_templates, rendered


class Confinement(unittest.TestCase):
    def test_every_pod_is_confined(self):
        for place, item in everything():
            for _, template in pod_templates([item]):
                with self.subTest(place=place, item=name_of(item)):
                    self.confined(template)

    def confined(self, template: dict):
        spec = template["spec"]
        self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
        self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
        talks_to_kubernetes = spec["serviceAccountName"] == "captionfleet-deletion-cost"
        self.assertIs(spec["automountServiceAccountToken"], talks_to_kubernetes)
        for part in containers(template):
            context = part["securityContext"]
            self.assertIs(context["allowPrivilegeEscalation"], False)
            self.assertIs(context["readOnlyRootFilesystem"], True)
            self.assertEqual(context["capabilities"]["drop"], ["ALL"])
            # One exception: who makes a folder of the host writable must be its owner.
            added = context["capabilities"].get("add", [])
            self.assertEqual(added, ["CHOWN"] if part["name"] == "cache-owner" else [])
            self.assertIn("memory", part["resources"]["limits"])

    def test_folders_of_the_host_need_the_component_that_says_so(self):
        for folder in (KUBERNETES / "base", KUBERNETES / "overlays/fleet"):
            for _, template in pod_templates(rendered(folder)):
                self.assertFalse([volume for volume in template["spec"]["volumes"] if "hostPath" in volume])
