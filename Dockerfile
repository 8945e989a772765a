# One image for the server, the reconciler, the steps that move inputs and outputs of a pod, and the runner on a node of a batch service (the C compiler
# opens some 1,300 files):
#   make image            or: docker build --ulimit nofile=16384:16384 -t tes-server .
# BASE needs python3 (3.11 or newer) with venv and pip.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY openapi openapi
COPY deploy/certificates certificates
COPY tes_server tes_server
# The certificates serve this step alone, behind a proxy that opens TLS: nothing of them reaches the image.
RUN cat /etc/ssl/certs/ca-certificates.crt certificates/*.crt >/tmp/certificates.pem 2>/dev/null; \
    python3 -m venv /opt/tes-server \
    && PIP_CERT=/tmp/certificates.pem PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 /opt/tes-server/bin/pip install --quiet '.[aws,azure,kubernetes,mongo]'

FROM ${BASE}
COPY --from=build /opt/tes-server /opt/tes-server
ENV PATH=/opt/tes-server/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TES_SERVER__DATA=/var/lib/tes-server
RUN mkdir -m 0700 /var/lib/tes-server && chown 10001:10001 /var/lib/tes-server
# A number, so that Kubernetes can see that it is not root. Runners on nodes are started as root: they use the node's Docker socket.
USER 10001:10001
WORKDIR /var/lib/tes-server
EXPOSE 8000
ENTRYPOINT ["tes-server"]
CMD ["serve", "--host", "0.0.0.0"]
