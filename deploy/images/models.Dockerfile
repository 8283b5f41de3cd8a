# warmswap-models: the model repository at /models and nothing else; a volume of type image, or the source of warmswap-full.
#
#   docker build -f deploy/images/models.Dockerfile -t warmswap-models:0.1.0 .
FROM scratch
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="warmswap-models" \
      org.opencontainers.image.description="The model repository of warmswap: the open pack" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY model_repository /models
