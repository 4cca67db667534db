"""What the page's modules take from Python: the steps, which must be called the same, and Intel's root, which is pinned."""

from __future__ import annotations

import base64
import json

from confide.verify.audit import catalogue
from confide.verify.roots import Roots

GROUPS = ("report", "tdx", "snp", "dstack", "custody", "gpu", "gpus", "receipt", "session", "claims")
"""What a page can meet: a report of aci/1 with everything inside it, and what is signed under it."""


def module() -> str:
    """``catalogue.js``: the steps with their ids, titles and what each proves, and the root."""
    (root,) = Roots.of(["intel"]).for_use("tdx")
    groups = {
        group.name: {
            "name": group.name,
            "title": group.title,
            "source": group.source,
            "steps": [{"id": step.id, "title": step.title, "proves": step.proves} for step in group.steps],
        }
        for group in catalogue()
        if group.name in GROUPS
    }
    return f"""/** Every step, with its number and words, and the pinned root. Written by `make docs` from `confide/verify`: change them there. */

/** @typedef {{{{id: string, title: string, proves: string}}}} Step */

/** @type {{Record<string, {{name: string, title: string, source: string, steps: Step[]}}>}} */
export const STEPS = {json.dumps(groups, indent=2, ensure_ascii=False)};

/** What quotes end at, in DER. */
export const INTEL_ROOT = {json.dumps({"name": root.name, "der": base64.b64encode(root.der).decode()}, indent=2)};

/** The step of an id, such as "tdx.3". @param {{string}} id @returns {{Step | undefined}} */
export function stepOf(id) {{
  return STEPS[id.split(".")[0]]?.steps.find((step) => step.id === id);
}}
"""
