# api, worker, gateway and engine proxy: one image, the command says which. Build context: the
# repository.
#
# Builds with every builder down to the legacy one through the Docker API, so: no syntax line, no
# here-documents, no --mount, no --link.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

# /run/engine: a volume made of it belongs to this user as well.
RUN useradd --create-home --uid 1000 --shell /usr/sbin/nologin agcluster \
 && install -d -o agcluster -g agcluster -m 0700 /run/engine
RUN python3 -m venv /opt/venv

# redis-cli, for the service `ops`: people look at the cluster with it (docs/reference/operations.md).
RUN apt-get update \
 && apt-get install -y --no-install-recommends redis-tools \
 && rm -rf /var/lib/apt/lists/*

# Exactly what was pinned (`make lock`), byte for byte; what builds our wheel apart from what runs.
# The dependencies first, by themselves: a change of our code does not install them again.
COPY infra/images/control.requirements.txt infra/images/build.requirements.txt /src/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: -r /src/build.requirements.txt \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: -r /src/control.requirements.txt

COPY pyproject.toml setup.py README.md LICENSE /src/
COPY agent/ /src/agent/
COPY api/ /src/api/
COPY infra/ /src/infra/
COPY worker/ /src/worker/
RUN /opt/build/bin/pip wheel -q --no-build-isolation --no-deps --wheel-dir /opt/build/wheel /src \
 && /opt/venv/bin/pip install --no-cache-dir --no-index --no-deps /opt/build/wheel/*.whl \
 && /opt/venv/bin/python -m compileall -q /opt/venv/lib \
 && rm -rf /src /opt/build \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +

ENV PATH=/opt/venv/bin:$PATH LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    AGCLUSTER_LOG_FORMAT=json
USER 1000:1000
WORKDIR /home/agcluster

ENTRYPOINT ["agcluster"]
CMD ["--help"]
