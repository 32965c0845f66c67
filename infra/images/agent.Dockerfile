# The image of one agent: Python, the Agent SDK (its wheel carries the CLI), agent/ and infra/wire/.
#
# Build context: a folder with agent/ and infra/ (the repository will do).
# Builds with every builder down to the legacy one through the Docker API, so: no syntax line, no
# here-documents, no --mount, no --link. Runs as uid 1000 with a read-only root, no capabilities and
# no network; /tmp and /home/agent are then tmpfs, /run/agcluster and /workspace mounts.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

# What an agent reaches for in a shell. No compiler: an agent that needs one brings its own image.
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      bash ca-certificates curl diffutils file git jq less patch procps ripgrep unzip xz-utils zip \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
 && useradd --create-home --uid 1000 --shell /bin/bash agent \
 && install -d -o agent -g agent -m 0700 /workspace /run/agcluster

# A venv of its own, so that nothing the agent installs or a base image carries can shadow it.
# Exactly what was pinned (`make lock`), byte for byte.
COPY infra/images/agent.requirements.txt /opt/requirements.txt
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: -r /opt/requirements.txt

COPY agent/ /opt/agcluster/agent/
COPY infra/__init__.py /opt/agcluster/infra/__init__.py
COPY infra/wire/ /opt/agcluster/infra/wire/

# The .pth file instead of PYTHONPATH: tools inherit the environment, and theirs should not see us.
# Bytecode now, because the root is read-only later. No setuid or setgid file stays behind.
RUN /opt/venv/bin/python -c "import site; open(site.getsitepackages()[0] + '/agcluster.pth', 'w').write('/opt/agcluster\n')" \
 && /opt/venv/bin/python -m compileall -q /opt/agcluster \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +

ENV HOME=/home/agent LANG=C.UTF-8
USER 1000:1000
WORKDIR /workspace

# -I: neither the workspace nor PYTHON* variables can change which code the server runs.
ENTRYPOINT ["/opt/venv/bin/python", "-I", "-m", "agent.main"]
