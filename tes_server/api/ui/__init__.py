"""Pages for people, beside the API: small Flask pages that ask the service as any client does."""
