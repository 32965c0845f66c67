# The image of the agent `data-analyst`: the agents' image, and a Python with pandas and matplotlib
# (`make image-analyst`). Build context: the repository.
#
# An environment of its own, first on PATH: nothing of it and nothing of ours (/opt/venv) meet.
ARG AGENT_IMAGE=agcluster-agent:0.1.0
FROM ${AGENT_IMAGE}

USER 0:0
COPY infra/images/analyst.requirements.txt /opt/analyst.requirements.txt
RUN python3 -m venv /opt/analyst \
 && /opt/analyst/bin/pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: -r /opt/analyst.requirements.txt \
 && /opt/analyst/bin/python -m compileall -q /opt/analyst/lib \
 && find /opt/analyst -xdev -type f -perm /6000 -exec chmod a-s {} +

ENV PATH=/opt/analyst/bin:$PATH MPLBACKEND=Agg
USER 1000:1000
