"""Reads the one fact of a certificate that matters here, its end, without a library for the rest. Pure."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime


def not_after(pem: str) -> datetime:
    """The end of validity of the first certificate in a PEM text (X.509: RFC 5280, 4.1). Raises ValueError."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in pem or end not in pem:
        raise ValueError("no certificate in it")
    first = pem[pem.index(begin) : pem.index(end) + len(end)]
    try:
        certificate_der = ssl.PEM_cert_to_DER_cert(first + "\n")
        _, body, _ = _element(certificate_der)  # Certificate
        _, to_be_signed, _ = _element(body)
        rest = to_be_signed
        fields: list[tuple[int, bytes]] = []
        while rest and len(fields) < 6:
            tag, value, rest = _element(rest)
            if tag != 0xA0:  # the version, which may be absent
                fields.append((tag, value))
        validity = fields[3][1]  # serial number, signature algorithm, issuer, validity
        _, _, after_begin = _element(validity)
        tag, text, _ = _element(after_begin)
        form = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"  # UTCTime, GeneralizedTime
        return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)
    except (ValueError, IndexError) as error:
        raise ValueError(f"not a usable certificate ({error})") from None


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows of the first DER element."""
    tag, length, start = der[0], der[1], 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[2 : 2 + count], "big"), 2 + count
    if start + length > len(der):
        raise ValueError("cut short")
    return tag, der[start : start + length], der[start + length :]
