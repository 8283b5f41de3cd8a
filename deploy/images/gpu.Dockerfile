# warmswap-gpu: the server on NVIDIA's Triton, with models. Context: the root of the repository.
#
#   docker build -f deploy/images/gpu.Dockerfile -t warmswap-gpu:0.1.0 .
#
# Needs >= 26.04: since then a model is ready only while the process of its Python backend lives.
# NVIDIA's image has CUDA, the onnxruntime backend in C++, and the Python that the stub of its Python backend embeds (3.12 in
# 26.x): python3 is that one. Its size (15 GB and more) is the base image's; ours adds what is in the layers below.
# Not run by this project: it needs a GPU and NVIDIA's registry.
ARG BASE_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3

FROM ${BASE_IMAGE} AS dependencies
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/warmswap
COPY deploy/images/install.sh /build/
COPY deploy/images/wheels-gpu /build/wheels
COPY deploy/images/requirements.txt /build/
# The server and the runtime are the base image's.
RUN grep -vE '^(nvidia-pytriton|onnxruntime)==' /build/requirements.txt >/build/requirements-gpu.txt \
    && sh /build/install.sh --python /opt/warmswap/bin/python --no-deps -r /build/requirements-gpu.txt \
    && /opt/warmswap/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/warmswap/lib

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
    && python3 -m compileall -q --invalidation-mode unchecked-hash /application/lib
RUN mkdir -p /cache/warmswap && chmod 0775 /cache/warmswap

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="warmswap-gpu" \
      org.opencontainers.image.description="A face-swap server on NVIDIA Triton that is never cold" \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-NVIDIA-Deep-Learning-Container" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH=/opt/warmswap/bin:${PATH} \
    LANG=C.UTF-8 \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    WARMSWAP_REPOSITORY=/models \
    XDG_CACHE_HOME=/var/cache/warmswap
COPY --from=application --chown=65532:0 /cache /var/cache
# Models change less often than code here, and there is no image of them alone in between.
COPY model_repository /models
COPY --from=dependencies /opt/warmswap /opt/warmswap
COPY --from=application /application /opt/warmswap
LABEL org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
WORKDIR /tmp
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/models/face_swap/ready', timeout=4)"]
ENTRYPOINT ["python", "-m", "warmswap_ops"]
# Without a GPU it ends with 3 and says so, instead of serving slowly. Arguments of a pod replace this: repeat it there.
CMD ["--host=0.0.0.0", "--require-gpu"]
