"""What is planted into rows, to be looked for in everything that a run writes. None of it is anybody's."""

_BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj\nMzEfYyjiWA4R4/M2bS1GB4t7NXp98C3SC6dVMvDuictGeurT8jNbvJZHtCSuYEvu"

PLANTED: list[tuple[str, str]] = [
    ("Email", "jane.doe@acme-corp.co.uk"),
    ("Email", "j+news_1@mail.acme.io"),
    ("Email", "root@db7.corp.internal"),
    ("CreditCard", "4111111111111111"),
    ("CreditCard", "5555 5555 5555 4444"),
    ("CreditCard", "3782-822463-10005"),
    ("Iban", "DE89370400440532013000"),
    ("Iban", "GB29 NWBK 6016 1331 9268 19"),
    ("Phone", "(415) 555-2671"),
    ("Phone", "+49 30 901820"),
    ("Phone", "+44 20 7946 0958"),
    ("Phone", "415-555-2671"),
    ("IpAddress", "198.41.0.4"),
    ("IpAddress", "10.20.30.41"),
    ("IpAddress", "2606:4700:4700::1111"),
    ("CryptoWallet", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
    ("CryptoWallet", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"),
    ("UsSsn", "219-09-9999"),
    ("Secret", "AKIAIOSFODNN7EXAMPLE"),
    ("Secret", "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"),
    ("Secret", "github_pat_" + "11ABCDEFG0a1b2c3d4e5f6_a1B2c3D4e5F6g7H8i9J0k1"),
    ("Secret", "sk-proj-" + "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4zAb7cD0"),
    ("Secret", "sk-ant-api03-" + "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"),
    ("Secret", "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx"),
    ("Secret", "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q"),
    ("Secret", "glpat-" + "a1B2c3D4e5F6g7H8i9J0"),
    ("Secret", "sk_live_" + "a1B2c3D4e5F6g7H8i9J0k1L2"),
    ("Secret", "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ12345678"),
    ("Secret", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
    ("Secret", f"-----BEGIN PRIVATE KEY-----\n{_BODY}\n-----END PRIVATE KEY-----"),
    ("Secret", f"-----BEGIN RSA PRIVATE KEY-----\n{_BODY}\n-----END RSA PRIVATE KEY-----"),
]
"""Found by what they are, wherever they stand."""

TEXTS: list[tuple[str, str]] = [
    ("export DB_PASSWORD=s3cr3tP4ssw0rd", "s3cr3tP4ssw0rd"),
    ("password: 'Tr0ub4dor&3x'", "Tr0ub4dor&3x"),
    ('{"api_key": "9f8e7d6c5b4a39281706f5e4d3c2b1a0"}', "9f8e7d6c5b4a39281706f5e4d3c2b1a0"),
    ("my password is hunter2hunter2 ok?", "hunter2hunter2"),
    ("Authorization: Bearer 9f8e7d6c5b4a39281706f5e4", "9f8e7d6c5b4a39281706f5e4"),
    ("curl -H 'authorization: basic dXNlcjpwYXNzd29yZDEyMw=='", "dXNlcjpwYXNzd29yZDEyMw=="),
    ("postgres://app:pa55@db.example.com:5432/x", "pa55"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ('client_secret="a8Q~x7.Zk29_mQpL3vR"', "a8Q~x7.Zk29_mQpL3vR"),
    ("token=ya7d9f8g7h6j5k4l3m2n1", "ya7d9f8g7h6j5k4l3m2n1"),
    ("the API key: 7Hs82kLm9Qw3Zx", "7Hs82kLm9Qw3Zx"),
    ("phone 4155552671", "4155552671"),
    ("SSN 219099999", "219099999"),
    ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIGl", "MHcCAQEEIIGl"),
]
"""Found by the words before them: (text, what must go)."""
