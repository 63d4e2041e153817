"""Which metrics there are."""

import functools
import re

from sources import ROOT

@functools.cache
def known_metrics() -> set[str]:
    """Every metric that the programs' sources declare, and what each histogram is made of."""
    known = {"up", "process_start_time_seconds", "process_resident_memory_bytes"}
    for program in ("worker", "dispatcher"):
        for path in sorted((ROOT / program / "src").rglob("*.rs")):
            source = path.read_text()
            known |= set(re.findall(r'"(captionfleet_[a-z0-9_]+)"', source))
            if "telemetry" in path.relative_to(ROOT).as_posix():
                for name in re.findall(r'"([a-z][a-z0-9_]+)"', source):
                    whole = f"captionfleet_{program}_{name}"
                    known |= {whole, f"{whole}_bucket", f"{whole}_sum", f"{whole}_count"}
    return known


def unknown_metrics(expression: str) -> set[str]:
    """Names of an expression that look like metrics of ours, or of the process, and are none."""
    named = set(re.findall(r"\b(?:captionfleet|process)_[a-z0-9_]+\b", expression))
    return named - known_metrics()
