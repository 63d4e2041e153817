"""Images, the compose file, systemd units."""

import os
import pathlib
import shutil
import tempfile
import unittest

import yaml

from sources import DEPLOY, call


class Images(unittest.TestCase):
    def test_dockerfiles(self):
        call("hadolint", *sorted((DEPLOY / "images").glob("Dockerfile*")))


class Compose(unittest.TestCase):
    FILE = DEPLOY / "compose/compose.yaml"

    def test_schema(self):
        call("check-jsonschema", "--builtin-schema", "vendor.compose-spec", self.FILE)

    def test_it_can_be_resolved(self):
        """By a program that runs such files: anchors, references between services, volumes."""
        with tempfile.TemporaryDirectory() as folder:
            # Nothing is run, so podman is asked for its version only.
            podman = pathlib.Path(folder) / "podman"
            podman.write_text("#!/bin/sh\necho podman version 5.0.0\n")
            podman.chmod(0o755)
            environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
            resolved = yaml.safe_load(call("podman-compose", "--file", self.FILE, "config", env=environment))
        settings = resolved["services"]["worker"]["environment"]
        self.assertEqual(settings["CAPTIONFLEET_GRACE"], "25")
        self.assertIn("CAPTIONFLEET_BROKER", settings, "the shared settings are merged in")

    def test_ports_are_published_to_this_machine_only(self):
        services = yaml.safe_load(self.FILE.read_text())["services"]
        for port in (port for service in services.values() for port in service.get("ports", [])):
            self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_workers_reach_broker_and_bucket_and_nothing_else(self):
        compose = yaml.safe_load(self.FILE.read_text())
        services = compose["services"]
        [only] = services["worker"]["networks"]
        self.assertIs(compose["networks"][only]["internal"], True)
        beside = {name for name, service in services.items() if only in service.get("networks", [])} - {"worker"}
        self.assertEqual(beside, {"rabbitmq", "minio", "prometheus"})
        for name in beside:
            self.assertIn("default", services[name]["networks"], f"{name} has a port that is published")

    def test_volumes_belong_to_who_writes_them(self):
        """A new volume has the owner that its folder has in the image, and root where there is none."""
        made = (DEPLOY / "images/Dockerfile").read_text().replace("\\\n", " ")
        owned = next(line for line in made.splitlines() if "chown 65532:65532" in line).partition("chown")[2].split()
        services = yaml.safe_load(self.FILE.read_text())["services"]
        for name in ("worker", "dispatcher"):
            for volume in services[name].get("volumes", []):
                self.assertIn(volume.split(":")[1], owned, name)

    def test_files_that_are_mounted_exist(self):
        services = yaml.safe_load(self.FILE.read_text())["services"]
        for volume in (volume for service in services.values() for volume in service.get("volumes", [])):
            source = volume.partition(":")[0]
            if source.startswith("."):
                self.assertTrue((self.FILE.parent / source).is_dir(), source)


@unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd here")
class Units(unittest.TestCase):
    FOLDER = DEPLOY / "systemd"

    def verify(self, unit: pathlib.Path):
        # The program is installed elsewhere, and its absence is all that may be said.
        try:
            call("systemd-analyze", "verify", "--man=no", unit)
        except AssertionError as error:
            told = [line for line in str(error).splitlines() if "is not executable" not in line]
            self.assertFalse(told)

    def test_units(self):
        for unit in sorted(self.FOLDER.glob("*.service")):
            self.verify(unit)

    def test_several_workers_on_one_machine(self):
        """As README.md installs them: the unit under a template's name, and what each instance has of its own."""
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            template = "captionfleet-worker@.service"
            shutil.copy(self.FOLDER / "captionfleet-worker.service", folder / template)
            shutil.copytree(self.FOLDER / f"{template}.d", folder / f"{template}.d")
            self.verify(folder / "captionfleet-worker@9465.service")
