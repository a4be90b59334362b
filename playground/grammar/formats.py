"""`format` as patterns. Each is the format's RFC or a part of it: what a pattern here allows, the format allows."""

YEAR = r"(000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
LEAP_YEAR = r"(\d\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
DAY = r"((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
DATE = f"({YEAR}-{DAY}|{LEAP_YEAR}-02-29)"  # RFC 3339
TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,28}[A-Za-z0-9])?"
HOSTNAME = rf"{LABEL}(\.{LABEL}){{0,7}}"  # 8 labels of 30 stay under RFC 1123's 253 characters
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
HEX = "[0-9A-Fa-f]"
NAME_CHARACTER = rf"([A-Za-z0-9._~!$&'()*+,;=-]|%{HEX}{{2}})"
PATH_CHARACTER = rf"({NAME_CHARACTER}|[:@])"
SEGMENTS = rf"(/{PATH_CHARACTER}*)*"
AUTHORITY = rf"(({NAME_CHARACTER}|:)*@)?{NAME_CHARACTER}*(:\d*)?"

FORMATS = {
    "date": DATE,
    "time": TIME,
    "date-time": f"{DATE}[Tt]{TIME}",
    "email": rf"{ATOM}(\.{ATOM})*@{HOSTNAME}",
    "hostname": HOSTNAME,
    "ipv4": rf"{BYTE}(\.{BYTE}){{3}}",
    "uuid": rf"{HEX}{{8}}(-{HEX}{{4}}){{3}}-{HEX}{{12}}",
    # RFC 3986, without IP literals
    "uri": rf"[A-Za-z][A-Za-z0-9+.-]*:(//{AUTHORITY}{SEGMENTS}|/?({PATH_CHARACTER}+{SEGMENTS})?)"
    rf"(\?({PATH_CHARACTER}|[/?])*)?(#({PATH_CHARACTER}|[/?])*)?",
}
# The other formats of JSON Schema 2020-12; whoever names one of these means it, so they are refused.
REFUSED = """idn-email idn-hostname ipv6 uri-reference iri iri-reference uri-template json-pointer
    relative-json-pointer regex duration""".split()
