"""Prints the installed Python and Debian packages as an SBOM in CycloneDX 1.5 JSON.

The script runs during the build of the image, with the standard library only. The document contains
no timestamp and no random serial number, so the same packages give the same document.
"""

import json
import re
import subprocess
from importlib import metadata

FIELDS = "${Package}\t${Version}\t${Architecture}\t${db:Status-Abbrev}\n"


def python_packages() -> list[dict[str, object]]:
    """Return every distribution on the path of this interpreter."""
    found = []
    for package in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", package.name).lower()
        licence = package.metadata.get("License-Expression") or package.metadata.get("License")
        component: dict[str, object] = {
            "type": "library",
            "name": name,
            "version": package.version,
            "purl": f"pkg:pypi/{name}@{package.version.replace('+', '%2B')}",
        }
        if licence and len(licence) < 100:  # some packages put the full licence text here
            component["licenses"] = [{"license": {"name": licence}}]
        found.append(component)
    return found


def debian_packages() -> list[dict[str, object]]:
    """Return every installed Debian package; empty if the base image has no dpkg."""
    try:
        listed = subprocess.run(
            ["dpkg-query", "--show", f"--showformat={FIELDS}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except FileNotFoundError:
        return []
    rows = [line.split("\t") for line in listed.splitlines()]
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={architecture}",
        }
        for name, version, architecture, state in rows
        if state.startswith("ii")
    ]


if __name__ == "__main__":
    components = python_packages() + debian_packages()
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": sorted(components, key=lambda c: str(c["purl"])),
    }
    print(json.dumps(document, indent=1))
