"""What a dataset does about personal data and secrets in conversations: `spec.privacy` of a SpeculatorDataset."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from specop.api.base import Model
from specop.api.markers import Cel, ListMap, ListSet, Worded
from specop.api.shared import SecretRef

Action = Literal["Mask", "Surrogate", "Drop", "Keep"]
DefaultEntity = Literal["Email", "CreditCard", "Iban", "Phone", "IpAddress", "CryptoWallet", "UsSsn", "Secret"]
OptInEntity = Literal[
    "AuTfn",
    "CaSin",
    "DeTaxId",
    "EsNif",
    "FiPersonalIdentityCode",
    "InAadhaar",
    "ItFiscalCode",
    "MacAddress",
    "PlPesel",
    "SePersonnummer",
    "SgNric",
    "UkNhs",
    "UkNino",
    "Url",
    "UsItin",
    "UsMbi",
    "UsNpi",
]
KEY_ENV = "SPECOP_PRIVACY_KEY"
"""Environment variable, and key of the Secret, with the key of surrogates."""


class EntityRule(Model):
    """What becomes of one kind of entity."""

    type: Literal[DefaultEntity, OptInEntity] = Field(
        description="Which. Looked for without being named: Email, CreditCard, Iban, Phone, IpAddress, CryptoWallet, "
        "UsSsn, Secret. The others only if they stand here."
    )
    action: Action | None = Field(
        default=None, description="Instead of privacy.action; Keep: it is not looked for at all."
    )


class CustomPattern(Model):
    """An entity of your own."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=40, pattern=r"^[A-Z][A-Za-z0-9]*$"),
        Worded("must be a CamelCase word, such as EmployeeNumber"),
    ] = Field(description="Its name, in counts and in masks.")
    regex: Annotated[str, Field(min_length=1, max_length=512)] = Field(
        description="Regular expression (Python's syntax) that finds it; its first group, if it has one, is the entity."
    )
    action: Action | None = Field(default=None, description="Instead of privacy.action.")


class Privacy(Model):
    """Personal data and secrets in the text of messages and in arguments of tool calls."""

    RULES: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "has(self.keySecretRef) || (!(has(self.action) && self.action == 'Surrogate')"
            " && (!has(self.entities) || self.entities.all(e, !(has(e.action) && e.action == 'Surrogate')))"
            " && (!has(self.patterns) || self.patterns.all(p, !(has(p.action) && p.action == 'Surrogate'))))",
            f"surrogates need a key: name a Secret with {KEY_ENV}",
            ".keySecretRef",
        ),
    )

    action: Action = Field(
        default="Mask",
        description="Mask: an entity becomes its name in brackets, such as [EMAIL]. Surrogate: it becomes another of "
        "its kind, the same throughout a conversation. Drop: the conversation is left out. Keep: nothing is sought.",
    )
    entities: Annotated[list[EntityRule], Field(max_length=32), ListMap(("type",))] = Field(
        default_factory=list, description="Adds to, or changes, what is looked for by default."
    )
    patterns: Annotated[list[CustomPattern], Field(max_length=16), ListMap(("name",))] = Field(
        default_factory=list, description="Entities of your own."
    )
    allow: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=128), ListSet()] = (
        Field(
            default_factory=list,
            description="Values that stay as they are, in any case of letters; `*` and `?` match, as in *@example.com.",
        )
    )
    key_secret_ref: SecretRef | None = Field(
        default=None, description=f"Secret whose key {KEY_ENV} keys the surrogates (16 bytes or more)."
    )
