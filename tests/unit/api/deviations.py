"""Every deliberate difference from the TES 1.1 file, once, with its reason: shared by the comparison and by schemathesis."""

from __future__ import annotations

STRUCTURE: dict[str, str] = {
    "/servers/1/url": "row 1: clients of both generations look under /v1 and /ga4gh/tes/v1",
    "/components/schemas/tesState/default": "peers.md 6.1: as a default of the query, UNKNOWN would filter every plain list to nothing",
    "/components/schemas/tesResources/properties/cpu_cores/type": "peers.md 6.3: fractions, as TES 1.2 will have them",
    "/components/schemas/tesResources/properties/cpu_cores/format": "the same",
    "/paths/~1tasks/get/parameters/page_size/schema/minimum": "a page of no tasks has no next page; peers differ in what they make of 0",
    "/paths/~1tasks/get/parameters/page_size/schema/maximum": 'what the description says in words: "Must be less than 2048"',
}
"""JSON pointer -> why it differs. Parameters are named, not numbered."""

RESPONSES: dict[str, str] = {
    "MINIMAL": "row 10: a MINIMAL task is id and state only, although the schema requires executors",
    "exit_code": "row 10: left out until it is known, although the schema requires it",
    "errors": "TES 1.1 declares no status but 200; errors are 400, 403, 404, 405, 409, 413, 500 and 503 with JSON bodies",
    "nulls": "row 6: null for a field or in a map is a field not given, so it is accepted where the schema has no null",
    "content types": "row 5: a body is JSON whatever its Content-Type says",
    "read-only": "fields that the server sets are ignored in bodies, whatever they hold",
    "meaning": "what a schema cannot say is refused too: no executors, paths, images and sizes that this site cannot serve, a page_token of another list",
    "cancel": "a GET of `/tasks/x:cancel` is a GetTask of the id `x:cancel`, as in stock connexion; so 405 names GET for that path",
    "trailing slash": "a trailing slash names the same resource; stock connexion answers 307",
}
"""What schemathesis and the comparison with stock connexion must not call a fault, and why."""
