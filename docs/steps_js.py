"""What the page's modules take from Python: the steps, which must be called the same, and the pinned certificates."""

from __future__ import annotations

import base64
import json

from confide.verify.audit import catalogue
from confide.verify.roots import pinned
from confide.verify.snp_chain import pinned_issuer_files
from confide.verify.verdict import Steps

GROUPS = (
    *("report", "tdx", "snp", "dstack", "custody", "gpu", "gpus", "rim"),
    *("receipt", "session", "signature", "claims"),
)
"""What a page can meet: a report of aci/1 with everything inside it, what is signed under it, and older signatures."""


def module() -> str:
    """``catalogue.js``: the steps with their ids, titles and what each proves."""
    groups = "\n".join(_group(group) for group in catalogue() if group.name in GROUPS)
    return f"""/** Every step with its words: written by `make docs` from `confide/verify`. */

/** @typedef {{{{id: string, title: string, proves: string}}}} Step */

/**
 * Name, title, source, and of each step the title and what it proves.
 * @type {{[string, string, string, [string, string][]][]}}
 */
const GROUPS = [
{groups}
];

/**
 * The steps of each kind of evidence, numbered from 1.
 * @type {{Record<string, {{name: string, title: string, source: string, steps: Step[]}}>}}
 */
export const STEPS = Object.fromEntries(
  GROUPS.map(([name, title, source, steps]) => {{
    const numbered = steps.map(([asked, proves], at) => ({{ id: `${{name}}.${{at + 1}}`, title: asked, proves }}));
    return [name, {{ name, title, source, steps: numbered }}];
  }}),
);

/** The step of an id, such as "tdx.3". @param {{string}} id @returns {{Step | undefined}} */
export function stepOf(id) {{
  return STEPS[id.split(".")[0]]?.steps.find((step) => step.id === id);
}}
"""


def certificates() -> str:
    """``pinned.js``: the roots, and the certificates of AMD's issuers."""
    roots = [
        {"name": one.name, "vendor": one.vendor, "use": one.use, "der": base64.b64encode(one.der).decode()}
        for one in pinned()
    ]
    issuers = {name: base64.b64encode(der).decode() for name, der in pinned_issuer_files().items()}
    return f"""/** The certificates that `confide/verify` pins, in DER: written by `make docs`. */

/** What chains may end at. */
export const ROOTS = {json.dumps(roots, indent=2)};

/** AMD's ASK and ASVK, which its roots signed: no trust anchors. @type {{Record<string, string>}} */
export const AMD_ISSUERS = {json.dumps(issuers, indent=2)};
"""


def _group(group: Steps) -> str:
    steps = [f"    {_text([step.title, step.proves])}," for step in group.steps]
    return "\n".join([f"  [{_text([group.name, group.title, group.source])[1:-1]}, [", *steps, "  ]],"])


def _text(value: list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)
