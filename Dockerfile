# The agent's image: `make image`. BASE may be any Debian-like image with Python 3.10 or newer.
ARG BASE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /source
COPY requirements/build.txt requirements/agent.txt requirements/
RUN python3 -m venv /opt/build \
    && /opt/build/bin/python -m pip install --no-cache-dir --no-deps --only-binary :all: \
        --require-hashes --requirement requirements/build.txt \
    && python3 -m venv /opt/apportion \
    && /opt/apportion/bin/python -m pip install --no-cache-dir --no-deps --only-binary :all: \
        --require-hashes --requirement requirements/agent.txt
COPY . .
RUN /opt/build/bin/python -m build --no-isolation --wheel --outdir /wheel \
    && /opt/apportion/bin/python -m pip install --no-cache-dir --no-deps --no-index /wheel/*.whl \
    && /opt/apportion/bin/python -m pip uninstall --yes pip

FROM ${BASE}
LABEL org.opencontainers.image.title="apportion" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/apportion /opt/apportion
# The ledger's and the rings' places; mount a volume on the first, a shared tmpfs on the second.
RUN mkdir -p /var/lib/apportion /run/apportion/rings \
    && chown -R 65532:65532 /var/lib/apportion /run/apportion \
    && chmod 3770 /run/apportion/rings
# Listens on all addresses of its own network namespace: a pod's, where Prometheus must reach it.
ENV PATH=/opt/apportion/bin:$PATH \
    APPORTION_LISTEN=0.0.0.0:9477 \
    APPORTION_STATE_DIR=/var/lib/apportion \
    APPORTION_RING_DIR=/run/apportion/rings \
    APPORTION_LOCK_DIR=/run/apportion/locks \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /var/lib/apportion
EXPOSE 9477
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["python3", "-c", "import urllib.request as request; request.urlopen('http://127.0.0.1:9477/healthz', timeout=4).read()"]
ENTRYPOINT ["apportion"]
CMD ["agent"]
