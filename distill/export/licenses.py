"""The licences that the Hugging Face hub knows by an identifier, from its page on licences."""

from __future__ import annotations

import difflib

_TABLE = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda
cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 lgpl-lr isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++
osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl deepfloyd-if-license llama2 gemma unknown other
"""
IDENTIFIERS = frozenset(_TABLE.split())


def check(license: str, name: str | None, link: str | None) -> None:
    """ValueError unless it is one of the hub's, and has a name where it is "other" and only there."""
    if license not in IDENTIFIERS:
        near = difflib.get_close_matches(license.lower(), sorted(IDENTIFIERS), n=3)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"--license {license} is none that the hub knows; {meant}"
            "for any other use --license other --license-name NAME --license-link LINK"
        )
    if license == "other" and not name:
        raise ValueError("--license other has no name; give --license-name NAME, and --license-link LINK to its text")
    if license != "other" and (name or link):
        raise ValueError(f"a licence's name and link are for --license other, not {license}; leave them out")
