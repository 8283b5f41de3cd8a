# warmswap: the server on CPUs, without models. Context: the root of the repository.
#
#   docker build -f deploy/images/cpu.Dockerfile -t warmswap:0.1.0 .
#
# BASE_IMAGE: any Debian 12 or Ubuntu of amd64; a python:3.11 image keeps its own Python, others get their distribution's.
# Wheels in deploy/images/wheels are used if there are any, else the package index (air-gapped builds: see README.md).
# No heredocs, no COPY --link: the buildah of Debian 12 builds this too.
ARG BASE_IMAGE=debian:bookworm-slim

# --- the system: Python 3.11 and its library, which Triton's stub embeds
FROM ${BASE_IMAGE} AS system
ENV DEBIAN_FRONTEND=noninteractive
RUN packages="ca-certificates" \
    && { command -v python3.11 >/dev/null || packages="$packages python3.11 libpython3.11"; } \
    && apt-get update \
    && apt-get install -y --no-install-recommends $packages \
    && rm -rf /var/lib/apt/lists/*

# --- dependencies, slimmed
FROM system AS dependencies
RUN packages="binutils" \
    && { python3.11 -c 'import ensurepip' 2>/dev/null || packages="$packages python3.11-venv"; } \
    && apt-get update \
    && apt-get install -y --no-install-recommends $packages \
    && rm -rf /var/lib/apt/lists/* \
    && python3.11 -m venv /opt/pip \
    && python3.11 -m venv --without-pip /opt/warmswap
COPY deploy/images/install.sh /build/
COPY deploy/images/wheels /build/wheels
COPY deploy/images/requirements.txt /build/
RUN sh /build/install.sh --python /opt/warmswap/bin/python --no-deps -r /build/requirements.txt
COPY deploy/images/slim.py /build/
RUN python3.11 /build/slim.py /opt/warmswap

# --- our code, in a tree of its own so that it becomes a layer of its own
FROM dependencies AS application
COPY deploy/images/requirements-build.txt /build/
RUN sh /build/install.sh -r /build/requirements-build.txt
COPY pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES.md /source/
COPY client /source/client
COPY deploy/warmswap_ops /source/deploy/warmswap_ops
COPY ensemble_python /source/ensemble_python
COPY export_scripts/warmswap_export /source/export_scripts/warmswap_export
COPY loadtests/warmswap_loadtests /source/loadtests/warmswap_loadtests
WORKDIR /source
RUN /opt/pip/bin/python -m hatchling build -t wheel -d /build/application \
    && sh /build/install.sh --python /opt/warmswap/bin/python --no-deps --prefix /application /build/application/*.whl \
    && python3.11 /build/slim.py /application --rules application

# Group 0 may write as well, for platforms that choose the uid (OpenShift).
RUN mkdir -p /cache/warmswap && chmod 0775 /cache/warmswap

# --- what of the system a server needs; the deleted rest would stay in a layer below, hence the copy into an empty image
FROM system AS root
COPY deploy/images/slim_system.sh /build/
RUN sh /build/slim_system.sh && rm -r /build

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="warmswap" \
      org.opencontainers.image.description="A face-swap server on NVIDIA Triton that is never cold" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH=/opt/warmswap/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    WARMSWAP_REPOSITORY=/models \
    XDG_CACHE_HOME=/var/cache/warmswap
# Ordered by how seldom they change: a push of code sends the last layer only.
# hadolint ignore=DL3067
COPY --from=root / /
COPY --from=application --chown=65532:0 /cache /var/cache
COPY --from=dependencies /opt/warmswap /opt/warmswap
COPY --from=application /application /opt/warmswap
# Last, since it changes with each commit and makes no layer.
LABEL org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
WORKDIR /tmp
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# For docker alone; Kubernetes has the probes of the chart.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/models/face_swap/ready', timeout=4)"]
ENTRYPOINT ["python", "-m", "warmswap_ops"]
CMD ["--host=0.0.0.0"]
