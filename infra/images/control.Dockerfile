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

# The dependencies first, by themselves: a change of our code does not install them again.
COPY pyproject.toml /src/
RUN /opt/venv/bin/python -c "import tomllib; print(*tomllib.load(open('/src/pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /src/requirements.txt \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -r /src/requirements.txt

COPY README.md LICENSE /src/
COPY agent/ /src/agent/
COPY api/ /src/api/
COPY infra/ /src/infra/
COPY worker/ /src/worker/
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps /src \
 && /opt/venv/bin/python -m compileall -q /opt/venv/lib \
 && rm -rf /src \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +

ENV PATH=/opt/venv/bin:$PATH LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    AGCLUSTER_LOG_FORMAT=json
USER 1000:1000
WORKDIR /home/agcluster

ENTRYPOINT ["agcluster"]
CMD ["--help"]
