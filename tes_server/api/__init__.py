"""The HTTP side: the TES API from its OpenAPI file, probes, documentation and the human pages.

It knows one door, `control.service.Service`, and must never see a store, a backend, the runner or the filer.
"""

import warnings

with warnings.catch_warnings():
    # connexion imports the test client of starlette, which advises everybody on its HTTP library, and the deprecated
    # resolver of jsonschema: neither is for whoever runs this server to mend.
    warnings.simplefilter("ignore")
    import connexion  # noqa: F401
