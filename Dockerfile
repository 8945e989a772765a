# One image for the server, the reconciler, the steps that move inputs and outputs of a pod, and the runner on a node of a batch service (the C compiler
# opens some 1,300 files):
#   make image            or: docker build --ulimit nofile=16384:16384 -t tes-server .
# BASE needs python3 (3.11 or newer) with venv and pip.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
# The certificates serve this stage alone, behind a proxy that opens TLS: nothing of them reaches the image.
ENV PIP_CERT=/tmp/certificates.pem \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
COPY deploy/certificates certificates
COPY requirements requirements
# What builds is not what runs: the image gets no pip, no compiler, and nothing that has no hash in `requirements`.
RUN cat /etc/ssl/certs/ca-certificates.crt certificates/*.crt >/tmp/certificates.pem 2>/dev/null; \
    python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/tes-server \
    && /opt/build/bin/pip install --quiet --require-hashes --only-binary :all: -r requirements/build.lock \
    && /opt/build/bin/pip --python /opt/tes-server/bin/python install --quiet --require-hashes --only-binary :all: -r requirements/image.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY openapi openapi
COPY tes_server tes_server
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/tes-server/bin/python install --quiet --no-deps --no-index dist/*.whl \
    && rm /opt/tes-server/lib/python3*/site-packages/tes_server-*.dist-info/direct_url.json \
    && /opt/build/bin/cyclonedx-py environment --output-reproducible --output-file /opt/tes-server/sbom.cdx.json /opt/tes-server/bin/python

FROM ${BASE}
# Nobody becomes somebody else in it: not even where it is run with less care than the chart's.
RUN find / -xdev -type f -perm /6000 -exec chmod ug-s {} +
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
