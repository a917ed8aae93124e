"""The check that binds a drafter to a target, in one place: a plan asks before a GPU is taken, `fetch` asks again.

Pure. What fits byte for byte needs no check of each field; the fields are compared one by one so that a person reads
which one differs, not that two digests do.
"""

from specop.api.shared import Contract, TargetFacts

FORMAT_VERSION = 1
"""The contract format that this version reads."""
SHOWN_LENGTH = 19
"""Of a digest, `sha256:` and twelve digits are shown."""


def check_contract(contract: Contract, facts: TargetFacts, speculative_tokens: int | None = None) -> list[str]:
    """Return what differs between what the drafter was made for and what is to be served; empty when it fits.

    Each entry begins with the field's name as users see it and gives both values, as in
    `target.vocabSize (drafter: 49152, target: 32000)`.
    """
    differences = []
    if contract.format_version != FORMAT_VERSION:
        differences.append(f"formatVersion (drafter: {contract.format_version}, known: {FORMAT_VERSION})")
    made_for, found = (target.identity.model_dump(by_alias=True) for target in (contract.target, facts))
    differences += [
        f"target.{field} (drafter: {_shown(made_for[field])}, target: {_shown(found[field])})"
        for field in made_for
        if made_for[field] != found[field]
    ]
    if speculative_tokens is not None and speculative_tokens > contract.decoding_heads:
        differences.append(
            f"decodingHeads (drafter: {contract.decoding_heads}, speculativeTokens: {speculative_tokens})"
        )
    return differences


def _shown(value: object) -> str:
    """Make a value short enough for a message."""
    text = str(value)
    return text[:SHOWN_LENGTH] if text.startswith("sha256:") else text
