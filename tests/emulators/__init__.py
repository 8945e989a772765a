"""Cloud services over HTTP that really run what they are given, for tests and for use by hand."""
