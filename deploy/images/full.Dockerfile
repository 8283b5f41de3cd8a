# warmswap-full: the server with its models.
#
#   docker build -f deploy/images/full.Dockerfile -t warmswap-full:0.1.0 deploy/images
#
# Layers are addressed by their content, so the models, though last, are pulled again only when they change themselves.
ARG APP_IMAGE=warmswap:0.1.0
ARG MODELS_IMAGE=warmswap-models:0.1.0

FROM ${MODELS_IMAGE} AS models

FROM ${APP_IMAGE}
COPY --from=models /models /models
LABEL org.opencontainers.image.title="warmswap-full"
