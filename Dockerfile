# One image for every process of the product; the argument says which: api, files, realtime, worker, delegations, sweeps, beat,
# migrate or memory-plugin. nginx, PostgreSQL and Valkey come from their own images (compose.yaml).
FROM python:3.12-slim AS build
WORKDIR /srv/workspace-server
RUN pip install --no-cache-dir --disable-pip-version-check uv
COPY pyproject.toml uv.lock ./
# `--build-arg EXTRA=vectors` for the model of MEMORY_EMBEDDING_PROVIDER=local.
ARG EXTRA=
# Neither the embedded servers of `make up` nor the tools of development.
RUN uv sync --locked ${EXTRA:+--extra $EXTRA} --no-default-groups --no-cache --compile-bytecode --python-preference only-system

FROM python:3.12-slim
ENV PATH=/srv/workspace-server/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DJANGO_SETTINGS_MODULE=config.settings
WORKDIR /srv/workspace-server
RUN useradd --uid 1000 --create-home --shell /usr/sbin/nologin workspace
COPY --from=build /srv/workspace-server/.venv .venv
COPY . .
RUN python -m compileall -q -x '/\.venv/' .
# A volume mounted here starts with the examples.
COPY --chown=1000:1000 templates/catalogue /srv/catalogue
ENV CONFIGS_DIR=/srv/catalogue/workspace-configs-templates
ARG GIT_SHA=dev
ENV GIT_SHA=$GIT_SHA
# Begins as root to join the group of a mounted engine's socket, then goes on as `workspace` (stack/container.py).
EXPOSE 8000
ENTRYPOINT ["python", "-m", "stack", "serve"]
CMD ["api"]
